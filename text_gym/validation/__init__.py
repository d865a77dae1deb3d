"""Validation: graded levels of checks that a reward or a task passes before anybody optimises it."""
