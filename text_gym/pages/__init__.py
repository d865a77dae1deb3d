"""The frame of every report that is a page: one template, one style sheet, one way to write numbers."""
