"""People's opinions in memory and in files: preference pairs, ratings and likes."""
