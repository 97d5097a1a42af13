"""Clips of an exact length; the benchmark command makes them (engine.bench.audio)."""

from engine.bench.audio import speech, write_wav

__all__ = ["speech", "write_wav"]
