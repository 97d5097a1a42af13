"""Asynchronous work: what a job is, where jobs are kept, and who works on them."""
