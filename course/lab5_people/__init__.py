"""A lab of the course; `README.md` is its handout."""
