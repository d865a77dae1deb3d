"""Bridges to other libraries of text environments: theirs as our tasks, and our tasks as theirs."""
