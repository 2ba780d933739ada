"""Entry point of ``vsm-fast`` and ``python -m vsm_fast``.

Ctrl-C prints one line instead of a traceback, also during the imports.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        from vsm_fast.cli import main as cli

        return cli.main()
    except KeyboardInterrupt:
        print("vsm-fast: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
