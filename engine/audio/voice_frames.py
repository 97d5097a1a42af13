"""Format of the frames sent to the voice detector's process, shared by both sides."""

from __future__ import annotations

import struct

FRAME_SAMPLES = 512
"""32 ms at 16 kHz, which the detector's networks are made for. Source: Silero VAD v5 and v6."""

FRAME_BYTES = 4 * FRAME_SAMPLES

HEADER = struct.Struct("=II")
"""Recording, frames that follow; no frames end the recording."""
