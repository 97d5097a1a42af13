"""The child that tells speakers apart, and its part in an answer."""
