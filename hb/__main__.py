"""`python -m hb` is `hb`."""

from hb.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
