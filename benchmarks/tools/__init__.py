"""What benchmarks share: rows of a table, contestants that take turns, and peers."""
