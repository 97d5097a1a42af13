"""The page of `make mac-check`: a Mac's figures beside the published ones, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scribewire.engine.bench.measuring import OURS, shown_seconds

Found = dict[str, Any]

PUBLISHED_CLIP_SECONDS = {"clip-fp16-float16": 0.83, "clip-8bit-float16": 0.27, "clip-4bit-float16": 0.18}
"""Of a 10 s clip with the 0.6B model on an M4 Pro, as published for 16, 8 and 4 bits."""

PUBLISHED_M1_FACTORS = (0.20, 0.31)
"""Real-time factors of other programs with 4- and 8-bit weights of the same model, as published for an M1 of 16 GB."""

CLIP_SECONDS = 10.0


def page(document: Found) -> list[str]:
    """The lines of the page."""
    return [
        f"# scribewire on {_chip(document)}",
        "",
        *_about(document),
        "",
        "## Parts",
        "",
        *_table(("Part", "Outcome", "Took"), _parts(document)),
        "",
        "## Beside published figures",
        "",
        *comparison(document),
        "",
        "## Prefill of one prompt",
        "",
        *_table(("Type", "Tokens", "Median", "Tokens/s"), _prefill(document)),
        "",
        *_rest(document),
        "",
        "## Decode steps",
        "",
        "Medians, and the most memory above what was held. Where a step that is not waited for takes much more of it",
        "than one that is, the cache was copied.",
        "",
        *_table(
            ("Type", "Operations", "Rows", "Way", "Step", "Tokens/s", "Memory over held"), _steps(document)
        ),
    ]


def comparison(document: Found) -> list[str]:
    """This machine's clips beside the published figures."""
    return _table(("10 s clip", "Here", "Published", "Here / published"), _compared(document))


def _compared(document: Found) -> Iterator[tuple[str, ...]]:
    for name, one in document["results"].items():
        if not name.startswith("clip-"):
            continue
        clips = one["parts"].get("clip", {}).get("by_seconds", {}).get(f"{CLIP_SECONDS:g}")
        if clips is None:
            continue
        times = {program: times["median"] for program, times in clips["times"].items()}
        here = times.pop(OURS)
        subject = f"{one['subject']['model']}, {one['subject']['dtype']}"
        if (published := PUBLISHED_CLIP_SECONDS.get(name)) is not None:
            yield subject, shown_seconds(here), f"{published:.2f} s on an M4 Pro", f"{here / published:.2f}"
        if "bit-" in name:
            low, high = (CLIP_SECONDS * factor for factor in PUBLISHED_M1_FACTORS)
            over = f"{here / high:.2f} to {here / low:.2f}"
            yield subject, shown_seconds(here), f"{low:.1f} to {high:.1f} s on an M1", over
        for peer, seconds in times.items():
            yield (
                subject,
                shown_seconds(here),
                f"{peer}, here: {shown_seconds(seconds)}",
                f"{here / seconds:.2f}",
            )


def _chip(document: Found) -> str:
    return str(document["machine"]["cpu"])


def _about(document: Found) -> Iterator[str]:
    one = document["machine"]
    yield f"{one['cores']} cores, {one['memory_bytes'] / 1e9:.0f} GB, {one['system']}"
    yield ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    engines = [result["engine"] for result in document["results"].values() if "engine" in result]
    if engines:
        facts = engines[0]["device_description"]
        shown = ", ".join(f"{name} {value}" for name, value in facts.items())
        yield f"computing on the {engines[0]['device']}: {shown}"
    yield f"{document['when']}, `{document['command']}`"


def _parts(document: Found) -> Iterator[tuple[str, ...]]:
    for one in document["parts"]:
        yield one["name"], one["outcome"], f"{one['seconds']:.0f} s" if "seconds" in one else ""


def _prefill(document: Found) -> Iterator[tuple[str, ...]]:
    for one in document["results"].values():
        for tokens, times in one.get("by_tokens", {}).items():
            rate = f"{int(tokens) / times['median']:.0f}"
            yield one["dtype"], tokens, shown_seconds(times["median"]), rate


def _rest(document: Found) -> Iterator[str]:
    for one in document["results"].values():
        if rest := one.get("rest"):
            first, after = (shown_seconds(rest[name]) for name in ("first_seconds", "after_idle_seconds"))
            yield (
                f"In {one['dtype']}, {rest['tokens']} tokens took {first} as a process's first work, "
                f"and {after} after {rest['idle_seconds']:g} s idle."
            )


def _steps(document: Found) -> Iterator[tuple[str, ...]]:
    for one in document["results"].values():
        for rows, ways in one.get("by_rows", {}).items():
            for way, found in ways.items():
                median = found["step"]["median"]
                yield (
                    one["dtype"],
                    str(one["max_ops"]),
                    rows,
                    way,
                    shown_seconds(median),
                    f"{int(rows) / median:.0f}",
                    f"{found['bytes_over_held'] / 1e6:.1f} MB",
                )


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> list[str]:
    lines = [" | ".join(row) for row in rows] or [" | ".join(["-"] * len(head))]
    return [f"| {line} |" for line in (" | ".join(head), " | ".join(["---"] * len(head)), *lines)]
