"""Tasks in which the environment answers: games, a customer, a tool, an error to be mended; a file each."""
