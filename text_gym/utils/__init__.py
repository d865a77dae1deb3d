"""Small tools that know nothing of text or learning: files, locks, intervals, charts."""
