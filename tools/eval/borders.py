"""Errors of word times: the distance of every word's start and end from the true one.

A border that is not known (two words that espeak-ng speaks as one) is not judged; how many there are is said. Figures
over a set pool its borders: each counts once, in short clips and long ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MEDIAN_LIMIT_MS, P95_LIMIT_MS = 40.0, 120.0
FAR_MS = 200.0


@dataclass(frozen=True)
class TimedOutcome:
    """One clip's word times, true and found, in seconds, (start, end) for each word; NaN in `wanted`: not known."""

    set_name: str
    language: str
    voice: str
    wanted: tuple[tuple[float, float], ...]
    found: tuple[tuple[float, float], ...]
    audio_seconds: float
    wall_seconds: float
    refused: int = 0

    def distances_ms(self) -> list[float]:
        """One for each known border; raises ValueError when a word is missing or too many."""
        if len(self.wanted) != len(self.found):
            raise ValueError(f"{len(self.found)} words timed, {len(self.wanted)} said")
        return [
            abs(there - here) * 1000
            for wanted, found in zip(self.wanted, self.found, strict=True)
            for there, here in zip(wanted, found, strict=True)
            if not math.isnan(there)
        ]

    @property
    def unknown_borders(self) -> int:
        return sum(math.isnan(edge) for word in self.wanted for edge in word)


def set_figures(outcomes: Sequence[TimedOutcome]) -> dict[str, Any]:
    """The figures of one set, as a whole, by synthesizer and by voice (espeak-ng's variants together)."""
    audio_seconds = sum(outcome.audio_seconds for outcome in outcomes)
    figures: dict[str, Any] = {
        "clips": len(outcomes),
        "audio_seconds": round(audio_seconds, 1),
        "real_time_factor": round(sum(outcome.wall_seconds for outcome in outcomes) / audio_seconds, 4),
        "voices_refused": sum(outcome.refused for outcome in outcomes),
        "unknown_borders": sum(outcome.unknown_borders for outcome in outcomes),
        **distance_figures(outcomes),
    }
    for name, of_group in (("by_engine", engine_of), ("by_voice", voice_of)):
        groups = sorted({of_group(outcome.voice) for outcome in outcomes})
        figures[name] = {
            group: distance_figures([one for one in outcomes if of_group(one.voice) == group])
            for group in groups
        }
    return figures


def distance_figures(outcomes: Sequence[TimedOutcome]) -> dict[str, Any]:
    """Median, 95th percentile and mean of the distances in milliseconds, and the share of those that are far."""
    distances = np.array([one for outcome in outcomes for one in outcome.distances_ms()])
    return {
        "borders": len(distances),
        "median_ms": round(float(np.median(distances)), 1),
        "p95_ms": round(float(np.percentile(distances, 95)), 1),
        "mean_ms": round(float(distances.mean()), 1),
        "far": round(float((distances > FAR_MS).mean()), 5),
    }


def language_targets(outcomes: Sequence[TimedOutcome]) -> list[dict[str, Any]]:
    """The issue's targets, for each language: its short and long clips together, and its kept-out voice."""
    targets = []
    for language in sorted({outcome.language for outcome in outcomes}):
        for name, is_held_out in (("short and long", False), ("kept-out voice", True)):
            chosen = [
                one
                for one in outcomes
                if one.language == language and ("held-out" in one.set_name) == is_held_out
            ]
            if not chosen:
                continue
            figures = distance_figures(chosen)
            for what, key, limit in (
                ("median", "median_ms", MEDIAN_LIMIT_MS),
                ("95th percentile", "p95_ms", P95_LIMIT_MS),
            ):
                targets.append(
                    {
                        "name": f"{what} distance, {language}, {name}",
                        "figure": figures[key],
                        "limit": limit,
                        "met": figures[key] <= limit,
                    }
                )
    return targets


def table(report: Mapping[str, Any]) -> str:
    """The report in Markdown: the sets, the voices, the targets."""
    lines = [
        "| Set | Clips | Audio | Borders (not known) | Median | 95th percentile | Over 200 ms |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, figures in report["sets"].items():
        lines.append(
            f"| {name} | {figures['clips']} | {figures['audio_seconds'] / 60:.1f} min "
            f"| {figures['borders']:,} ({figures['unknown_borders']}) | {figures['median_ms']:.1f} ms "
            f"| {figures['p95_ms']:.1f} ms | {figures['far']:.2%} |"
        )
    lines += [
        "",
        "| Set | Engine or voice | Borders | Median | 95th percentile |",
        "|---|---|---:|---:|---:|",
    ]
    for name, figures in report["sets"].items():
        for voice, of_voice in {**figures["by_engine"], **figures["by_voice"]}.items():
            lines.append(
                f"| {name} | {voice} | {of_voice['borders']:,} | {of_voice['median_ms']:.1f} ms "
                f"| {of_voice['p95_ms']:.1f} ms |"
            )
    lines += ["", "| Target | Figure | Limit | Met |", "|---|---:|---:|---|"]
    for target in report["targets"]:
        lines.append(
            f"| {target['name']} | {target['figure']:.1f} ms | at most {target['limit']:.0f} ms "
            f"| {'yes' if target['met'] else 'NO'} |"
        )
    machine, versions = report["machine"], report["versions"]
    lines += [
        "",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['system']}. Versions: "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f". Real-time factor, all sets: {report['real_time_factor']:.3f}. Seed {report['seed']}.",
    ]
    if not report["complete"]:
        lines.append("This is a partial run: fewer clips or fewer sets than the evaluation has.")
    return "\n".join(lines)


def engine_of(voice: str) -> str:
    """flite or espeak."""
    return voice.split(":")[0]


def voice_of(voice: str) -> str:
    """The voice without espeak-ng's variant."""
    return voice.split("+")[0]
