"""The analysis of a benchmark's results: statistics, findings and comparisons."""
