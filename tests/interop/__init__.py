"""Other libraries, each in an environment of its own: their documented first lines, and that they learn."""
