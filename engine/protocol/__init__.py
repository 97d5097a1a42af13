"""All that the server may know of the engine: values, messages, errors and how its process is started.

Imports the standard library only, so that the front can use it without loading MLX, PyAV or tokenizers.
"""
