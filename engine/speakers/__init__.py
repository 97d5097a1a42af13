"""Telling speakers apart, in a child process of its own: nothing here is imported by the front or the engine worker."""
