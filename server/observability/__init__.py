"""What an operator sees: logs, metrics for Prometheus, readiness."""
