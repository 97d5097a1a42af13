"""Speculative decoding of a lone sequence."""
