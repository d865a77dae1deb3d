"""What a benchmark's results say: statistics, findings, comparisons."""
