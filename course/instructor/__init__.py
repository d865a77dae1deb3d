"""The instructor's side of the course: guide, exam, slides, and the computations behind their numbers."""
