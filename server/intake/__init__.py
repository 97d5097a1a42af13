"""From the bytes of a request to a recording on disk and validated options."""
