"""Asynchronous work: jobs, the stores that keep them, and the runner that works on them."""
