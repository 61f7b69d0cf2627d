"""Where a run keeps what it made: one file of scores and draws, and one folder."""

from mop.storage.run_folder import RunFolder
from mop.storage.store import Store

__all__ = ["RunFolder", "Store"]
