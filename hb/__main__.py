"""`python -m hb` is `hb`."""

from hb.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
