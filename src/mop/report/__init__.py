"""A run to one HTML page."""

from mop.report.page import write_report

__all__ = ["write_report"]
