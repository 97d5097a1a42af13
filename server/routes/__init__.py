"""The HTTP addresses, one module per family."""
