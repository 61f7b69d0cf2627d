"""Parts of ``make bench-trust``."""
