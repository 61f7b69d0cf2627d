"""``python -m mop`` is the command ``mop``."""

import sys


def main() -> int:
    """Run the command; an interrupt while it is being read from disk ends it in silence."""
    try:
        from mop.cli import main as command
    except KeyboardInterrupt:
        return 130
    return command()


if __name__ == "__main__":
    sys.exit(main())
