"""The course: labs in which every formula is graded against its exact answer; see `README.md` beside."""
