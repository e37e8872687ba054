"""Comparisons with peers, one script a table: `python -m benchmarks.NAME` writes results/benchmarks/NAME.json."""
