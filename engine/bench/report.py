"""A benchmark's document as a table that fits a terminal: one line a figure, medians first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from scribewire.engine.bench.measuring import OURS, shown_seconds

Row = tuple[str, str, str, str]
"""Name, median, spread and remark."""
Found = dict[str, Any]
Rows = Callable[[Found], Iterator[Row]]

_SYSTEM_S = "the system's"


def table(document: Found) -> list[str]:
    """The lines of the whole report."""
    return [*about(document), *aligned(rows(document, ROWS))]


def about(document: Found) -> Iterator[str]:
    """Model, machine and versions of the measurement."""
    machine = document["machine"]
    yield document["subject"]["model"]
    engine = document.get("engine", {})
    device = engine.get("device_description", {}).get("device_name", "")
    ran = f", computing in {engine['dtype']} on the {engine['device']} {device}".rstrip() if engine else ""
    allocator = machine.get("allocator", _SYSTEM_S)
    memory = "" if allocator == _SYSTEM_S else f", memory by {allocator}"
    yield f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}{memory}{ran}"
    yield ", ".join(f"{name} {version}" for name, version in document["versions"].items())


def rows(document: Found, rows_of: Mapping[str, Rows]) -> list[Row]:
    """Every part's rows, or the one that says why it failed. rows_of: by part, in the order of the table."""
    found: list[Row] = []
    for part, make in rows_of.items():
        if one := document["parts"].get(part):
            found += [(part, "failed", "", one["error"])] if "error" in one else make(one)
    return found


def aligned(rows: list[Row]) -> list[str]:
    """Rows as lines below a head, after an empty one; nothing of none."""
    if not rows:
        return []
    rows = [("", "median", "from - to", ""), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        "",
        *(f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows),
    ]


def timed(name: str, one: Found, more: str = "") -> Row:
    """The row of a summary of seconds."""
    spread = f"{shown_seconds(one['min'])} - {shown_seconds(one['max'])}"
    return (name, shown_seconds(one["median"]), spread, more)


def counted(count: int | str, thing: str) -> str:
    """A number of things, in words."""
    return f"{count} {thing}{'' if str(count) == '1' else 's'}"


def _limits(found: Found) -> Iterator[Row]:
    rate = found["bandwidth"]["bytes_per_second"]
    yield ("memory bandwidth", f"{rate / 1e9:.1f} GB/s", "", "the better of a copy and a sum")
    operations = found["products"]["operations_per_second"]
    shown = f"{operations / 1e12:.3g} TFLOP/s" if operations >= 1e12 else f"{operations / 1e9:.3g} GFLOP/s"
    yield ("matrix products", shown, "", f"{found['products']['size']} squared")


def _load(found: Found) -> Iterator[Row]:
    yield timed("ready in a fresh process", found["ready"])
    weights = f"{found['resident_bytes'] / 1e6:.0f} MB of weights"
    yield timed("of that, loading the model", found["load"], weights)


def _step(found: Found) -> Iterator[Row]:
    by_rows = found["by_rows"]
    for count, one in by_rows.items():
        shares = f"{one['share_of_bandwidth']:.0%} of bandwidth, {one['share_of_products']:.1%} of products"
        more = f"{one['tokens_per_second']:.0f} tokens/s; {shares}"
        slower = outdone(by_rows, count)
        more += f"; no slower than {counted(slower, 'row')}" if slower else ""
        yield timed(f"decode step, {counted(count, 'row')}", one["step"], more)


def outdone(by_rows: Found, count: str) -> str | None:
    """The fewest rows whose step takes as long as that of `count` or longer: a number of slots not worth having."""
    seconds = by_rows[count]["step"]["median"]
    fewer = [one for one in by_rows if int(one) < int(count) and by_rows[one]["step"]["median"] >= seconds]
    return min(fewer, key=int, default=None)


def _clip(found: Found) -> Iterator[Row]:
    for seconds, one in found["by_seconds"].items():
        yield timed(f"{seconds} s clip", one["times"][OURS], f"{one['output_tokens'][OURS]} tokens")


def _clients(found: Found) -> Iterator[Row]:
    for clients, each in found["by_clients"].items():
        one = each["loads"][OURS]
        waits = ", ".join(f"{name} {shown_seconds(one[name]['median'])}" for name in ("p50", "p95"))
        rate = one["requests_per_second"]
        spread = f"{rate['min']:.2f} - {rate['max']:.2f}"
        more = f"{waits}, {each['p95_over_idle']:.2f} x idle"
        yield (counted(clients, "client"), f"{rate['median']:.2f} req/s", spread, more)


def _long(found: Found) -> Iterator[Row]:
    name, tokens = f"{found['audio_seconds']:.0f} s file", f"{found['output_tokens'][OURS]} tokens"
    yield timed(name, found["times"][OURS], tokens)
    yield ("of that file, a process's first run", shown_seconds(found["first_run_seconds"][OURS]), "", "")
    yield ("of that file, speed", f"{found['times_real_time']:.0f} x", "", "real time")
    peak = max(found["peak_resident_bytes"][OURS], found["peak_mlx_bytes"])
    yield ("of that file, peak memory", f"{peak / 1e6:.0f} MB", "", "process or MLX, whichever held more")


ROWS: dict[str, Rows] = {
    "limits": _limits,
    "load": _load,
    "step": _step,
    "clip": _clip,
    "clients": _clients,
    "long": _long,
}
