"""The command ``mop``."""

from mop.cli.command import FAILED, INTERRUPTED, OK, TERMINATED, USAGE, main
from mop.cli.parser import build_parser

__all__ = ["FAILED", "INTERRUPTED", "OK", "TERMINATED", "USAGE", "build_parser", "main"]
