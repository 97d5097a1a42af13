"""Observability for operators: logs, metrics for Prometheus, readiness."""
