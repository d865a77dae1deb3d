"""The matrix of runs in a benchmark: designs, budgets, cells, and the engines that run them."""
