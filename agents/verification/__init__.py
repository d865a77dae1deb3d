"""What can be said of any algorithm: exact expectations on tiny tasks, and laws that it must not break."""
