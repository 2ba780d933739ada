"""``vsm-fast`` and ``python -m vsm_fast``: the command line, which Ctrl-C ends in one line.

Also while it is being imported, which takes a while where disks are slow.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line of ``vsm_fast.cli.main``."""
    try:
        from vsm_fast.cli import main as cli

        return cli.main()
    except KeyboardInterrupt:
        print("vsm-fast: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
