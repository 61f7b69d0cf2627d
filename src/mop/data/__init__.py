"""Files, tables and data sets by name, to records in splits; models and data fetched by name."""

from mop.data.records import load_records, read_records, save_records, split_records

__all__ = ["load_records", "read_records", "save_records", "split_records"]
