"""A benchmark's document as a table that fits a terminal: one line a figure, medians first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.bench.measuring import shown_seconds
from engine.bench.plan import PARTS
from engine.bench.side_by_side import OURS

Row = tuple[str, str, str, str]
"""What it is, its median, its spread, and what else is to be said."""

_SYSTEM_S = "the system's"
_HEAD: Row = ("", "median", "from - to", "")


def table(document: dict[str, Any]) -> list[str]:
    """The lines of the whole report."""
    lines = list(_about(document))
    rows: list[Row] = []
    for part in PARTS:
        found = document["parts"].get(part)
        if found is None:
            continue
        if "error" in found:
            rows.append((part, "failed", "", found["error"]))
        else:
            rows += _ROWS[part](found)
            rows += [
                (f"{part}, {name}", "failed", "", why) for name, why in found.get("failed_peers", {}).items()
            ]
    if rows:
        lines += ["", *_aligned([_HEAD, *rows])]
    return lines


def _about(document: dict[str, Any]) -> Iterator[str]:
    subject, machine = document["subject"], document["machine"]
    forced = subject["tokens_per_second"]
    end = f", {forced:g} tokens per second of audio, forced" if forced else ""
    yield f"{subject['model']}{end}"
    engine = document.get("engine", {})
    device = engine.get("device_description", {}).get("device_name", "")
    ran = f", computing in {engine['dtype']} on the {engine['device']} {device}".rstrip() if engine else ""
    allocator = machine.get("allocator", _SYSTEM_S)
    memory = "" if allocator == _SYSTEM_S else f", memory by {allocator}"
    yield f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}{memory}{ran}"
    yield ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    for name, about in document.get("peers", {}).items():
        if not about["installed"]:
            yield f"{name} is not installed: {about['how_to_install']}"
        elif "error" in about:
            yield f"{name} could not be measured: {about['error']}"
        else:
            yield f"{name} {about['versions'][name]}: weights {about['weights']}, {about['dtype']}"


def _timed(name: str, one: dict[str, Any], more: str = "") -> Row:
    return (
        name,
        shown_seconds(one["median"]),
        f"{shown_seconds(one['min'])} - {shown_seconds(one['max'])}",
        more,
    )


def _limits(found: dict[str, Any]) -> Iterator[Row]:
    rate = found["bandwidth"]["bytes_per_second"]
    yield ("memory bandwidth", f"{rate / 1e9:.1f} GB/s", "", "the better of a copy and a sum")
    operations = found["products"]["operations_per_second"]
    shown = f"{operations / 1e12:.3g} TFLOP/s" if operations >= 1e12 else f"{operations / 1e9:.3g} GFLOP/s"
    yield ("matrix products", shown, "", f"{found['products']['size']} squared")


def _load(found: dict[str, Any]) -> Iterator[Row]:
    yield _timed("ready in a fresh process", found["ready"])
    yield _timed(
        "of that, loading the model", found["load"], f"{found['resident_bytes'] / 1e6:.0f} MB of weights"
    )


def _encoder(found: dict[str, Any]) -> Iterator[Row]:
    for rows, one in found["by_rows"].items():
        more = f"and {shown_seconds(one['mel']['median'])} for the log-mel frames"
        yield _timed(f"encoder, {_counted(rows, 'clip')}", one["encode"], more)


def _prefill(found: dict[str, Any]) -> Iterator[Row]:
    for rows, one in found["by_rows"].items():
        yield _timed(f"prefill, {_counted(rows, 'row')}", one["prefill"], f"{one['prompt_tokens']} tokens")


def _step(found: dict[str, Any]) -> Iterator[Row]:
    for rows, one in found["by_rows"].items():
        more = (
            f"{one['tokens_per_second']:.0f} tokens/s; {one['share_of_bandwidth']:.0%} of bandwidth, "
            f"{one['share_of_products']:.1%} of products"
        )
        if one["estimated_launches"] is not None:
            more += f"; about {one['estimated_launches']} launches, {one['launches_per_token']:.0f} a token"
        yield _timed(f"decode step, {_counted(rows, 'row')}", one["step"], more)


def _clip(found: dict[str, Any]) -> Iterator[Row]:
    for seconds, one in found["by_seconds"].items():
        yield from _times(f"{seconds} s clip", one)


def _long(found: dict[str, Any]) -> Iterator[Row]:
    yield from _times(f"{found['audio_seconds']:.0f} s file", found)
    if first := found.get("first_run_seconds"):
        others = ", ".join(f"{who} {shown_seconds(took)}" for who, took in first.items() if who != OURS)
        yield ("of that file, a process's first run", shown_seconds(first[OURS]), "", others)
    yield ("of that file, speed", f"{found['times_real_time']:.0f} x", "", "real time")
    peak = max(found["peak_resident_bytes"][OURS], found["peak_mlx_bytes"])
    yield ("of that file, peak memory", f"{peak / 1e6:.0f} MB", "", "process or MLX, whichever held more")


def _times(name: str, found: dict[str, Any]) -> Iterator[Row]:
    for who, one in found["times"].items():
        tokens = f"{found['output_tokens'][who]} tokens"
        if who == OURS:
            yield _timed(name, one, tokens)
        else:
            yield _timed(
                f"{name}, {who}", one, f"{tokens}; ours takes {_ratio(found['time_over_peer'][who])} of it"
            )


def _clients(found: dict[str, Any]) -> Iterator[Row]:
    for clients, each in found["by_clients"].items():
        for who, one in each["loads"].items():
            name = f"{_counted(clients, 'client')}{'' if who == OURS else ', ' + who}"
            rate = one["requests_per_second"]
            more = f"p50 {shown_seconds(one['p50']['median'])}, p95 {shown_seconds(one['p95']['median'])}"
            if who == OURS:
                more += f", {each['p95_over_idle']:.2f} x idle"
            else:
                more += f"; ours serves {_ratio(each['throughput_over_peer'][who])}"
            yield (name, f"{rate['median']:.2f} req/s", f"{rate['min']:.2f} - {rate['max']:.2f}", more)


def _middle(found: dict[str, Any]) -> Iterator[Row]:
    yield _timed("short request, idle", found["idle"])
    if "short" in found:
        more = f"{_ratio(found['short_over_idle'])} idle"
        yield _timed("short request, in the long file", found["short"], more)
    else:
        yield ("short request, in the long file", "-", "", "the file was over before one could be sent")
    yield _timed("long file over HTTP, alone", found["file_alone"])
    yield _timed(
        f"long file with {_counted(found['short_requests'], 'short request')}",
        found["file_with_short_requests"],
        f"{found['file_slower_by']:+.1%}",
    )


_ROWS = {
    "limits": _limits,
    "load": _load,
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


def _counted(count: int | str, thing: str) -> str:
    return f"{count} {thing}{'' if str(count) == '1' else 's'}"


def _aligned(rows: list[Row]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
        for row in rows
    ]
