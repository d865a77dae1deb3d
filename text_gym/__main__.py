"""Runs the command line: `python -m text_gym` is `text-gym`."""

from .cli.main import main

raise SystemExit(main())
