"""Sequences that are decoded together: what one is, and the batched prefill and decode step."""
