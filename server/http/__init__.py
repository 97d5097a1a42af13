"""What HTTP itself asks for: connections, bodies, request ids, errors."""
