"""``python -m mop`` is the command ``mop``."""

from mop.cli import main

raise SystemExit(main())
