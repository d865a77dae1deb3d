"""Runs the command line: `python -m text_gym` is `text-gym`."""

from .cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
