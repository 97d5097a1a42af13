"""Cues as files: SubRip (srt), WebVTT (vtt), tab-separated values (tsv), LRC.

Rendered times never overlap and every cue ends after it starts, whatever the cues' times; no text can end its block or
forge another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from scribewire.engine.subtitles.cues import Cue
from scribewire.engine.subtitles.lines import label_of, lines_of
from scribewire.engine.subtitles.scripts import visible

CLEARED_AFTER_MILLISECONDS = 1000
"""LRC has no ends: after a longer silence an empty line takes the text away."""


def render_srt(cues: Iterable[Cue]) -> str:
    """A SubRip file: numbered blocks, times with a comma, blank lines between, a speaker before the text.

    An arrow in a text would read as a line of times; its point is replaced by a lookalike.
    """
    blocks = [
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{_labelled(cue, text).replace('-->', '--›')}\n"
        for number, (start, end, text, cue) in enumerate(_timed(cues), start=1)
    ]
    return "\n".join(blocks)


def render_vtt(cues: Iterable[Cue]) -> str:
    """A WebVTT file; speakers are its voices. `&`, `<` and `>` are escaped, so no text reads as a tag or an arrow."""
    blocks = []
    for start, end, text, cue in _timed(cues):
        name = _one_line(cue.speaker or "")
        voice = f"<v {_escaped(name)}>" if name else ""
        blocks.append(f"{_clock(start, '.')} --> {_clock(end, '.')}\n{voice}{_escaped(text)}\n")
    return "\n".join(["WEBVTT\n", *blocks])


def render_tsv(cues: Iterable[Cue]) -> str:
    """Tab-separated values under a head line: start and end in milliseconds, the text on one line.

    The columns are those of Whisper's own; a last one names the speaker where there are speakers.
    """
    rows = list(_timed(cues))
    has_speakers = any(cue.speaker for *_, cue in rows)
    lines = ["start\tend\ttext" + ("\tspeaker" if has_speakers else "")]
    for start, end, text, cue in rows:
        speaker = f"\t{_one_line(cue.speaker or '')}" if has_speakers else ""
        lines.append(f"{start}\t{end}\t{visible(text)}{speaker}")
    return "\n".join(lines) + "\n"


def render_lrc(cues: Iterable[Cue]) -> str:
    """Timed lyrics: one line a cue, `[minutes:seconds]` before it, a speaker before the text."""
    lines = []
    cleared_at: int | None = None
    for start, end, text, cue in _timed(cues):
        if cleared_at is not None and start - cleared_at > CLEARED_AFTER_MILLISECONDS:
            lines.append(_lrc_clock(cleared_at))
        label = label_of(cue.speaker)
        # A text in the form of a time would be read as a second one.
        said = re.sub(r"^\[(?=\s*[\d\w]+:)", "(", visible(text))
        lines.append(_lrc_clock(start) + (f"{label} {said}" if label else said))
        cleared_at = end
    if cleared_at is not None:
        lines.append(_lrc_clock(cleared_at))
    return "".join(f"{line}\n" for line in lines)


RENDERERS: Mapping[str, Callable[[Iterable[Cue]], str]] = {
    "srt": render_srt,
    "vtt": render_vtt,
    "tsv": render_tsv,
    "lrc": render_lrc,
}
"""Every kind of file, by its extension."""


def _timed(cues: Iterable[Cue]) -> Iterator[tuple[int, int, str, Cue]]:
    """Start and end in milliseconds, in order, without overlap; cues without text are left out."""
    earliest = 0
    for cue in cues:
        lines = [_one_line(line) for line in cue.text.splitlines()]
        text = "\n".join(line for line in lines if line)  # a blank line would end the block
        if not text:
            continue
        start = max(round(cue.start_seconds * 1000), earliest)
        end = max(round(cue.end_seconds * 1000), start + 1)
        earliest = end
        yield start, end, text, cue


def _labelled(cue: Cue, text: str) -> str:
    label = label_of(cue.speaker)
    if not label:
        return text
    lines = lines_of(text, cue.speaker)
    has_own_line = lines is not None and lines[0] == ""
    return f"{label}\n{text}" if has_own_line else f"{label} {text}"


def _one_line(text: str) -> str:
    return " ".join(visible(text).split())


def _clock(milliseconds: int, point: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{milliseconds:03}"


def _lrc_clock(milliseconds: int) -> str:
    minutes, hundredths = divmod(milliseconds // 10, 6000)
    return f"[{minutes:02}:{hundredths // 100:02}.{hundredths % 100:02}]"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
