"""From a recording to its transcript: transcoded, decoded once for all retries, combined with its speakers."""
