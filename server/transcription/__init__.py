"""A recording's way to its transcript: transcoded, decoded once for all retries, joined with its speakers."""
