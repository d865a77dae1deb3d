"""The command line: `main` has the table of commands, each of which has a file here."""
