"""The command line: `main` holds the table of commands, each of which has a file here."""
