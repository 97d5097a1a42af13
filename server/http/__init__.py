"""The HTTP layer: connections, bodies, request ids, errors."""
