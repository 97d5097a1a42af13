"""Benchmarks for developers: peers side by side, GPU runs, simulations; JSON of every run in results/."""
