"""Diarization: the child that runs it, and its speakers in a transcript."""
