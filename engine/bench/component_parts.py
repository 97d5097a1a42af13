"""The parts that are measured on the networks alone: limits, encoder, prefill and decode step."""

from __future__ import annotations

from typing import Any

from engine.bench.child import Child
from engine.bench.peer_programs import Note
from engine.bench.plan import Plan

COMPONENT_PARTS = ("limits", "encoder", "prefill", "step")


def measure_component(
    part: str, plan: Plan, networks: Child, limits: dict[str, Any], note: Note
) -> dict[str, Any]:
    """One of COMPONENT_PARTS. limits: the values of that part, which the step's shares refer to."""
    match part:
        case "limits":
            note("memory bandwidth and matrix products")
            return networks.ask(do="limits", array_bytes=plan.limit_bytes, product_size=plan.product_size)
        case "encoder" | "prefill":
            return {"by_rows": {str(rows): _rows_of(part, rows, plan, networks, note) for rows in plan.rows}}
        case _:
            return {
                "weight_bytes": networks.started["step_weight_bytes"],
                "by_rows": {str(rows): _step(rows, plan, networks, limits, note) for rows in plan.rows},
            }


def _rows_of(part: str, rows: int, plan: Plan, networks: Child, note: Note) -> dict[str, Any]:
    note(f"{part} of {rows} {'clip' if rows == 1 else 'clips'} of {plan.row_seconds:g} s")
    return networks.ask(do=part, rows=rows, seconds=plan.row_seconds, repeats=plan.rounds)


def _step(rows: int, plan: Plan, networks: Child, limits: dict[str, Any], note: Note) -> dict[str, Any]:
    note(f"decode step at {rows} {'row' if rows == 1 else 'rows'}")
    found = networks.ask(do="step", rows=rows, seconds=plan.row_seconds, steps=plan.steps)
    return found | shares(found, rows, limits)


def shares(found: dict[str, Any], rows: int, limits: dict[str, Any]) -> dict[str, Any]:
    """Tokens per second, and what share of this machine's limits a step uses.

    bandwidth: bytes that the step must read at least, by what the machine reads in the step's time.
    products: operations that it must compute, by what the machine computes in that time.
    launches_per_token: the estimated launches of a step by the tokens that it makes; None where they are not known.
    """
    seconds, launches = found["step"]["median"], found["estimated_launches"]
    bytes_per_second = limits["bandwidth"]["bytes_per_second"]
    operations_per_second = limits["products"]["operations_per_second"]
    return {
        "tokens_per_second": round(rows / seconds, 2),
        "share_of_bandwidth": round(found["read_bytes"] / seconds / bytes_per_second, 4),
        "tokens_per_second_at_full_bandwidth": round(rows * bytes_per_second / found["read_bytes"], 2),
        "share_of_products": round(found["operations"] / seconds / operations_per_second, 4),
        "launches_per_token": None if launches is None else round(launches / rows, 2),
    }
