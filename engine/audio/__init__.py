"""Audio in: any container to 16 kHz mono float32, recordings to chunks, chunks to log-mel frames."""
