"""The networks, and nothing but the networks: configuration and tensors in, tensors out.

Imports MLX and itself. Knows no files, no text and no requests.
"""
