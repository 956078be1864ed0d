"""`python -m gradwatch`, for where the `gradwatch` command is not on the path."""

from __future__ import annotations

from gradwatch.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
