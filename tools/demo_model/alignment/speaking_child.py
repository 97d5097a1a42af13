"""The process in which the synthesizers' libraries run: a JSON line in, a JSON line and samples out.

Request:  {"engine": "flite", "text", "voice", "speed", "pitch"}
          {"engine": "espeak", "tokens", "is_word", "voice", "speed", "pitch"}
Reply:    {"rate", "bytes", "tokens": [[name, start, end]]} or {"rate", "bytes", "words": [[start, end]]}, then that
          many bytes of int16; or {"error"}.
It ends when its input ends. Standard library only.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tools.demo_model.alignment.espeak_library import Espeak
from tools.demo_model.alignment.flite_library import Flite


def answer(request: dict[str, Any], flite: Flite, espeak: Espeak) -> tuple[dict[str, Any], bytes]:
    """The reply to one request, and the samples that follow it."""
    try:
        if request["engine"] == "flite":
            rate, samples, tokens = flite.speak(
                request["text"], request["voice"], request["speed"], request["pitch"]
            )
            return {"rate": rate, "bytes": len(samples), "tokens": tokens}, samples
        rate, samples, words = espeak.speak(
            request["tokens"],
            request["is_word"],
            request["voice"],
            int(request["speed"]),
            int(request["pitch"]),
        )
        return {"rate": rate, "bytes": len(samples), "words": words}, samples
    except ValueError as problem:
        return {"error": str(problem)}, b""


def main() -> None:
    """Answer until the input ends."""
    flite, espeak = Flite(), Espeak()
    for line in sys.stdin.buffer:
        reply, samples = answer(json.loads(line), flite, espeak)
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n" + samples)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
