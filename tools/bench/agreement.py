"""Agreement of a batch with single runs, by number type: `python -m tools.bench.agreement`.

The same clips are transcribed one at a time and side by side, in every type asked for. In float32 they are the same
tokens, which the tests hold; in 16 bits other batch sizes take other kernels, whose last digits differ, and where two
tokens are nearly as likely the other one may come out. This says how often. Also, each type against float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.protocol.transcript import Transcript
from scribewire.engine.recording.work import TranscribeItem
from scribewire.engine.transcriber import Transcriber
from tools.bench.clips import speech
from tools.bench.measuring import RESULTS_FOLDER, machine, write_result

SHORTEST_SECONDS, LONGEST_SECONDS = 2.0, 14.0


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "float16"])
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--rows", type=int, default=16, help="most clips side by side")
    parser.add_argument("--name", default="agreement_cpu", help="of the JSON")
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER)
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    singles: dict[str, list[Transcript]] = {}
    for dtype in arguments.dtypes:
        alone, together, device = _both(arguments, dtype)
        singles[dtype] = alone
        found[dtype] = {"batch_against_single": _agreement(alone, together)}
        if dtype != arguments.dtypes[0]:
            found[dtype][f"single_against_{arguments.dtypes[0]}"] = _agreement(
                singles[arguments.dtypes[0]], alone
            )
        print(dtype, found[dtype], flush=True)
    command = (
        f"python -m tools.bench.agreement --device {device} --clips {arguments.clips} --name {arguments.name}"
    )
    content = {"machine": machine(), "device": device, "rows": arguments.rows, "by_dtype": found}
    print(write_result(arguments.name, command, content, arguments.out))


def _both(arguments: argparse.Namespace, dtype: str) -> tuple[list[Transcript], list[Transcript], str]:
    """Transcripts one at a time, those side by side, and the device."""
    step = (LONGEST_SECONDS - SHORTEST_SECONDS) / arguments.clips
    items = [
        TranscribeItem(speech(SHORTEST_SECONDS + step * place, skip_seconds=1.7 * place))
        for place in range(arguments.clips)
    ]
    config = EngineConfig(
        model=arguments.model, device=arguments.device, dtype=dtype, max_batch_rows=arguments.rows
    )
    with Transcriber(config=config) as engine:
        alone = [engine.transcribe_many([item])[0] for item in items]
        together = engine.transcribe_many(items)
        return alone, together, engine.info.device


def _agreement(wanted: list[Transcript], found: list[Transcript]) -> dict[str, Any]:
    """Shares of clips with the same tokens and with the same text, and of tokens before the first that differs."""
    tokens = [(_tokens(one), _tokens(other)) for one, other in zip(wanted, found, strict=True)]
    kept = sum(_common(one, other) for one, other in tokens)
    return {
        "clips": len(wanted),
        "same_tokens": sum(one == other for one, other in tokens) / len(tokens),
        "same_text": sum(one.text == other.text for one, other in zip(wanted, found, strict=True))
        / len(tokens),
        "tokens_before_a_difference": kept / sum(len(one) for one, _ in tokens),
    }


def _tokens(transcript: Transcript) -> list[int]:
    return [token for segment in transcript.segments for token in segment.tokens]


def _common(one: list[int], other: list[int]) -> int:
    for place, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return place
    return min(len(one), len(other))


if __name__ == "__main__":
    main()
