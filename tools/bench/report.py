"""The table of a developer's benchmark: an owner's, with peers, ratios and the parts that only developers measure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scribewire.engine.bench import report as product
from scribewire.engine.bench.measuring import OURS, shown_seconds
from scribewire.engine.bench.report import Found, Row, Rows, aligned, counted, rows, timed


def table(document: Found) -> list[str]:
    """The lines of the whole report."""
    return [*_about(document), *aligned([*rows(document, ROWS), *_failed_peers(document)])]


def _about(document: Found) -> Iterator[str]:
    model, *more = product.about(document)
    forced = document["subject"]["tokens_per_second"]
    yield model + (f", {forced:g} tokens per second of audio, forced" if forced else "")
    yield from more
    for name, about in document.get("peers", {}).items():
        if not about["installed"]:
            yield f"{name} is not installed: {about['how_to_install']}"
        elif "error" in about:
            yield f"{name} could not be measured: {about['error']}"
        else:
            yield f"{name} {about['versions'][name]}: weights {about['weights']}, {about['dtype']}"


def _failed_peers(document: Found) -> Iterator[Row]:
    for part, found in document["parts"].items():
        for name, why in found.get("failed_peers", {}).items():
            yield (f"{part}, {name}", "failed", "", why)


def _encoder(found: Found) -> Iterator[Row]:
    for count, one in found["by_rows"].items():
        more = f"and {shown_seconds(one['mel']['median'])} for the log-mel frames"
        yield timed(f"encoder, {counted(count, 'clip')}", one["encode"], more)


def _prefill(found: Found) -> Iterator[Row]:
    for count, one in found["by_rows"].items():
        yield timed(f"prefill, {counted(count, 'row')}", one["prefill"], f"{one['prompt_tokens']} tokens")


def _step(found: Found) -> Iterator[Row]:
    for (name, median, spread, more), one in zip(
        product.ROWS["step"](found), found["by_rows"].values(), strict=True
    ):
        if one["estimated_launches"] is not None:
            more += f"; about {one['estimated_launches']} launches, {one['launches_per_token']:.0f} a token"
        yield (name, median, spread, more)


def _clip(found: Found) -> Iterator[Row]:
    for seconds, one in found["by_seconds"].items():
        yield from _times(f"{seconds} s clip", one)


def _long(found: Found) -> Iterator[Row]:
    yield from _times(f"{found['audio_seconds']:.0f} s file", found)
    _, first, *more = product.ROWS["long"](found)
    others = {name: took for name, took in found["first_run_seconds"].items() if name != OURS}
    yield (*first[:3], ", ".join(f"{name} {shown_seconds(took)}" for name, took in others.items()))
    yield from more


def _times(name: str, found: Found) -> Iterator[Row]:
    for side, one in found["times"].items():
        tokens = f"{found['output_tokens'][side]} tokens"
        if side == OURS:
            yield timed(name, one, tokens)
        else:
            share = _ratio(found["time_over_peer"][side])
            yield timed(f"{name}, {side}", one, f"{tokens}; ours takes {share} of it")


def _clients(found: Found) -> Iterator[Row]:
    for row, (clients, each) in zip(product.ROWS["clients"](found), found["by_clients"].items(), strict=True):
        yield row
        for side, one in each["loads"].items():
            if side != OURS:
                name, rate = f"{counted(clients, 'client')}, {side}", one["requests_per_second"]
                waits = ", ".join(f"{name} {shown_seconds(one[name]['median'])}" for name in ("p50", "p95"))
                more = f"{waits}; ours serves {_ratio(each['throughput_over_peer'][side])}"
                spread = f"{rate['min']:.2f} - {rate['max']:.2f}"
                yield (name, f"{rate['median']:.2f} req/s", spread, more)


def _middle(found: Found) -> Iterator[Row]:
    yield timed("short request, idle", found["idle"])
    if "short" in found:
        more = f"{_ratio(found['short_over_idle'])} idle"
        yield timed("short request, in the long file", found["short"], more)
    else:
        yield ("short request, in the long file", "-", "", "the file was over before one could be sent")
    yield timed("long file over HTTP, alone", found["file_alone"])
    yield timed(
        f"long file with {counted(found['short_requests'], 'short request')}",
        found["file_with_short_requests"],
        f"{found['file_slower_by']:+.1%}",
    )


ROWS: dict[str, Rows] = {
    "limits": product.ROWS["limits"],
    "load": product.ROWS["load"],
    "encoder": _encoder,
    "prefill": _prefill,
    "step": _step,
    "clip": _clip,
    "clients": _clients,
    "long": _long,
    "middle": _middle,
}


def _ratio(one: dict[str, Any]) -> str:
    interval = one["interval_95"]
    spread = "" if interval is None else f" ({interval[0]:.2f} - {interval[1]:.2f})"
    return f"{one['ratio']:.2f} x{spread}"
