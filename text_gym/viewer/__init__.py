"""The run viewer: iterations that a run kept, and the page that shows their tokens."""
