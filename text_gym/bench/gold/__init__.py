"""Tasks with a gold reward on data that the user brings, and the policies their benchmarks start from."""
