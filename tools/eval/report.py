"""From outcomes to figures, targets, a table for people and the model card's section.

A figure over a set pools its clips: all errors over all reference words. Per-voice figures leave espeak-ng's variants
together, except for the kept-out one, which has sets of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.eval.scoring import Errors, bootstrap_interval, error_rate, fold

CARD_BEGIN = "<!-- figures: begin; written by tools/eval/evaluate_demo.py, not by hand -->"
CARD_END = "<!-- figures: end -->"
WORST_SHOWN = 5
TRAINING_SAMPLE_SENTENCES = 100_000
_FIGURES = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """One clip's truth and what the engine made of it; `errors` is None for clips without speech."""

    set_name: str
    language: str | None
    voice: str
    text: str
    heard_text: str
    heard_language: str | None
    audio_seconds: float
    wall_seconds: float
    errors: Errors | None


@dataclass(frozen=True)
class TrainingWords:
    """Words of the training text, folded: all words it can draw, and those of a large sample of it."""

    possible: frozenset[str]
    sampled: frozenset[str]


@dataclass(frozen=True)
class Target:
    """One promise of the issue. `at_most` says on which side of `limit` the figure must stay."""

    name: str
    figure: float
    limit: float
    at_most: bool

    @property
    def is_met(self) -> bool:
        """True when the promise holds, without rounding."""
        return self.figure <= self.limit if self.at_most else self.figure >= self.limit


def set_figures(outcomes: Sequence[Outcome], trained: TrainingWords | None) -> _FIGURES:
    """The figures of one set; without `trained`, nothing is said about words that training lacks."""
    audio_seconds = sum(outcome.audio_seconds for outcome in outcomes)
    figures: _FIGURES = {
        "clips": len(outcomes),
        "audio_seconds": round(audio_seconds, 1),
        "real_time_factor": round(sum(outcome.wall_seconds for outcome in outcomes) / audio_seconds, 4),
    }
    if any(outcome.errors is None for outcome in outcomes):
        return figures | _noise_figures(outcomes)
    right = sum(outcome.heard_language == outcome.language for outcome in outcomes)
    figures |= _rates(outcomes)
    figures["language_right"] = round(right / len(outcomes), 5)
    figures["words"] = _word_figures((outcome.text for outcome in outcomes), trained)
    for name, of_group in (("by_engine", _engine), ("by_voice", _voice)):
        groups = sorted({of_group(outcome.voice) for outcome in outcomes})
        figures[name] = {
            group: _rates([outcome for outcome in outcomes if of_group(outcome.voice) == group])
            for group in groups
        }
    worst = sorted(outcomes, key=lambda outcome: -_errors(outcome).word_errors / _errors(outcome).words)
    figures["worst"] = [
        {"voice": item.voice, "said": item.text, "heard": item.heard_text}
        for item in worst[:WORST_SHOWN]
        if _errors(item).word_errors
    ]
    return figures


def targets_of(sets: Mapping[str, _FIGURES]) -> list[Target]:
    """The issue's targets on the sets that were run."""
    targets: list[Target] = []
    for prefix, limits in (
        ("short", {"en": 0.05, "es": 0.07}),
        ("long", {"en": 0.08, "es": 0.08}),
        ("held-out", {"en": 0.15, "es": 0.15}),
    ):
        targets += [
            Target(f"WER, {prefix}-{code}", sets[f"{prefix}-{code}"]["wer"], limit, at_most=True)
            for code, limit in limits.items()
            if f"{prefix}-{code}" in sets
        ]
    for code in ("en", "es"):
        free = [sets[name] for name in (f"short-{code}", f"long-{code}") if name in sets]
        if free:
            clips = sum(figures["clips"] for figures in free)
            right = sum(figures["clips"] * figures["language_right"] for figures in free) / clips
            targets.append(
                Target(f"language named right, short and long, {code}", right, 0.99, at_most=False)
            )
    for name in ("noise", "noise-context"):
        if name in sets:
            targets.append(Target(f"empty text, {name}", sets[name]["empty"], 0.99, at_most=False))
    for code in ("en", "es"):
        if f"short-{code}" in sets:
            distinct = sets[f"short-{code}"]["words"]["distinct"]
            targets.append(Target(f"distinct words, short-{code}", distinct, 1500, at_most=False))
    return targets


def table(report: Mapping[str, Any]) -> str:
    """The report in Markdown: the sets, the voices, the noise, the targets."""
    spoken = {name: figures for name, figures in report["sets"].items() if "wer" in figures}
    silent = {name: figures for name, figures in report["sets"].items() if "wer" not in figures}
    lines = []
    if spoken:
        lines += [
            "| Set | Clips | Audio | WER (95 % interval) | CER | Language right | Distinct words | New words |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
    for name, figures in spoken.items():
        low, high = figures["wer_interval_95"]
        words = figures["words"]
        lines.append(
            f"| {name} | {figures['clips']} | {figures['audio_seconds'] / 60:.1f} min "
            f"| {figures['wer']:.2%} ({low:.2%} to {high:.2%}) | {figures['cer']:.2%} "
            f"| {figures['language_right']:.2%} | {words['distinct']} | {_new_words(words)} |"
        )
    if spoken:
        lines += [
            "",
            "New words: the share of distinct words that the training text cannot say, and in parentheses the share "
            f"that a sample of {TRAINING_SAMPLE_SENTENCES:,} of its sentences does not say.",
        ]
    if silent:
        lines += ["", "| Without speech | Clips | Empty text | No language |", "|---|---:|---:|---:|"]
    for name, figures in silent.items():
        lines.append(
            f"| {name} | {figures['clips']} | {figures['empty']:.2%} | {figures['language_none']:.2%} |"
        )
    lines += _voice_table(spoken)
    lines += ["", "| Target | Figure | Limit | Met |", "|---|---:|---:|---|"]
    for target in report["targets"]:
        bound = "at most" if target["at_most"] else "at least"
        figure, limit = _shown(target["figure"]), _shown(target["limit"])
        lines.append(
            f"| {target['name']} | {figure} | {bound} {limit} | {'yes' if target['met'] else 'NO'} |"
        )
    machine, versions = report["machine"], report["versions"]
    lines += [
        "",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['system']}. "
        + "Versions: "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f". Real-time factor, all sets: {report['real_time_factor']:.3f}. Seed {report['seed']}.",
    ]
    if not report["complete"]:
        lines.append("This is a partial run: fewer clips or fewer sets than the evaluation has.")
    return "\n".join(lines)


def target_entries(targets: Iterable[Target]) -> list[_FIGURES]:
    """Targets as JSON holds them."""
    return [asdict(target) | {"met": target.is_met} for target in targets]


def fill_model_card(card: Path, section: str, begin: str = CARD_BEGIN, end: str = CARD_END) -> None:
    """Replace what stands between the two markers; raises ValueError when the card does not have each once."""
    text = card.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{card.name} needs these two lines, once each and in this order:\n{begin}\n{end}")
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    card.write_text(f"{before}{begin}\n\n{section}\n\n{end}{after}", encoding="utf-8")


def _rates(outcomes: Sequence[Outcome]) -> _FIGURES:
    errors = [_errors(outcome) for outcome in outcomes]
    word_errors, words = [item.word_errors for item in errors], [item.words for item in errors]
    low, high = bootstrap_interval(word_errors, words)
    return {
        "clips": len(outcomes),
        "reference_words": sum(words),
        "wer": round(error_rate(word_errors, words), 5),
        "wer_interval_95": [round(low, 5), round(high, 5)],
        "cer": round(
            error_rate([item.character_errors for item in errors], [item.characters for item in errors]), 5
        ),
    }


def _noise_figures(outcomes: Sequence[Outcome]) -> _FIGURES:
    empty = [not outcome.heard_text.strip() for outcome in outcomes]
    kinds = Counter(outcome.voice for outcome in outcomes)
    kept_quiet = Counter(outcome.voice for outcome, is_empty in zip(outcomes, empty, strict=True) if is_empty)
    return {
        "empty": round(sum(empty) / len(outcomes), 5),
        "language_none": round(
            sum(outcome.heard_language is None for outcome in outcomes) / len(outcomes), 5
        ),
        "empty_by_kind": {kind: f"{kept_quiet[kind]} of {count}" for kind, count in sorted(kinds.items())},
        "worst": [
            {"voice": outcome.voice, "said": "", "heard": outcome.heard_text}
            for outcome, is_empty in zip(outcomes, empty, strict=True)
            if not is_empty
        ][:WORST_SHOWN],
    }


def _word_figures(texts: Iterable[str], trained: TrainingWords | None) -> _FIGURES:
    """Shares of distinct words: those training cannot say at all, and those a large sample of it never says."""
    distinct = {word for text in texts for word in fold(text).split()}
    figures: _FIGURES = {"distinct": len(distinct), "never_in_training": None, "not_in_training_sample": None}
    if trained is not None:
        figures["never_in_training"] = round(len(distinct - trained.possible) / len(distinct), 5)
        figures["not_in_training_sample"] = round(len(distinct - trained.sampled) / len(distinct), 5)
    return figures


def _voice_table(spoken: Mapping[str, _FIGURES]) -> list[str]:
    rows = [
        f"| {name} | {voice} | {rates['clips']} | {rates['wer']:.2%} |"
        for name, figures in spoken.items()
        if name.startswith(("short-", "long-", "held-out-"))
        for voice, rates in {**figures["by_engine"], **figures["by_voice"]}.items()
    ]
    return ["", "| Set | Engine or voice | Clips | WER |", "|---|---|---:|---:|", *rows] if rows else []


def _new_words(words: _FIGURES) -> str:
    if words["never_in_training"] is None:
        return "not known"
    return f"{words['never_in_training']:.1%} ({words['not_in_training_sample']:.1%})"


def _errors(outcome: Outcome) -> Errors:
    assert outcome.errors is not None
    return outcome.errors


def _engine(voice: str) -> str:
    return voice.split(":")[0]


def _voice(voice: str) -> str:
    return voice.split("+")[0]


def _shown(value: float) -> str:
    return f"{value:.2%}" if value <= 1.0 else f"{value:g}"
