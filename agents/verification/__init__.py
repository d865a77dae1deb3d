"""Verification of any algorithm: exact expectations on tiny tasks, and laws it must not break."""
