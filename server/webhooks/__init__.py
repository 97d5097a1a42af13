"""Webhooks at the end of jobs: to allowed targets only, signed, retried for hours, never lost."""
