"""Figures for Prometheus: what is counted as it happens, and what is read off the parts when somebody asks."""
