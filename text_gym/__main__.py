"""Runs the command line: `python -m text_gym` is `text-gym`."""

from text_gym.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
