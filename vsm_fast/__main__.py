"""``python -m vsm_fast`` is ``vsm-fast``."""

from vsm_fast.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
