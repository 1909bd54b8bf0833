"""Ours and the peers side by side: `python -m benchmarks [--quick] [--only NAME]` writes `benchmarks/results.md`."""
