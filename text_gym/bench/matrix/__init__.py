"""What a benchmark runs: designs, budgets, cells, and the engines that work through them."""
