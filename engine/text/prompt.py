"""The prompt that Qwen3-ASR expects, and the parser of its answer."""

from __future__ import annotations

from dataclasses import dataclass

from scribewire.engine.text.tokenizer import (
    ASR_TEXT,
    AUDIO_END,
    AUDIO_PAD,
    AUDIO_START,
    IM_END,
    IM_START,
    Tokenizer,
)

_REPEATS_THAT_COLLAPSE = 20
_LONGEST_PERIOD = 20


@dataclass(frozen=True, slots=True)
class ParsedOutput:
    """The model's answer: the language (English name, "" when it named none) and the text."""

    language: str
    text: str


def build_prompt(
    tokenizer: Tokenizer, *, audio_tokens: int, context: str | None = None, language: str | None = None
) -> list[int]:
    """Prompt ids with `audio_tokens` pad positions where audio embeddings go.

    context: plain text of the system turn, which is always present. language: canonical English name; when
    given, the answer's head is written for the model and it answers with text alone.
    Source: the chat template and the forced-language suffix of the official package.
    """
    start, end = tokenizer.token_id(IM_START), tokenizer.token_id(IM_END)
    newline = tokenizer.encode_text("\n")
    ids = [start, *tokenizer.encode_text(f"system\n{context or ''}"), end, *newline]
    ids += [start, *tokenizer.encode_text("user\n"), tokenizer.token_id(AUDIO_START)]
    ids += [tokenizer.token_id(AUDIO_PAD)] * audio_tokens
    ids += [tokenizer.token_id(AUDIO_END), end, *newline, start]
    if language is None:
        return ids + tokenizer.encode_text("assistant\n")
    return [*ids, *tokenizer.encode_text(f"assistant\nlanguage {language}"), tokenizer.token_id(ASR_TEXT)]


def build_context(prompt: str | None, keywords: tuple[str, ...] = ()) -> str | None:
    """The system turn's text: the prompt as it is, and the keywords as a list on a line of their own.

    Keywords lose control characters, runs of whitespace, and repeats among them; None when nothing is left.
    """
    cleaned = ("".join(c if c.isprintable() else " " for c in keyword) for keyword in keywords)
    names = dict.fromkeys(" ".join(keyword.split()) for keyword in cleaned)
    names.pop("", None)
    return "\n".join(part for part in (prompt, ", ".join(names)) if part) or None


def parse_output(
    text: str, forced_language: str | None = None, *, keeps_repeats: bool = False
) -> ParsedOutput:
    """Read `language English<asr_text>What was said.`, or plain text when the language was forced.

    Same results as the official parser, with one difference: a model that repeats the head although its
    language was forced has that head removed, where the official code returns it as text.
    keeps_repeats: what a loop guard watched needs no collapse: the repeats that are left were said.
    """
    text = text.strip() if keeps_repeats else collapse_repeats(text.strip())
    if not text:
        return ParsedOutput("", "")
    if forced_language is not None:
        head, tag, rest = text.partition(ASR_TEXT)
        if is_head(head + tag):
            text = rest.strip()
        return ParsedOutput(forced_language, text)
    head, tag, rest = text.partition(ASR_TEXT)
    if not tag:
        return ParsedOutput("", text)
    if "language none" in head.lower():
        return ParsedOutput("", rest.strip())
    return ParsedOutput(_language_of(head) or "", rest.strip())


def is_head(text: str) -> bool:
    """True when this is `language X<asr_text>`, which a model may write although it was written for it."""
    head, tag, rest = text.partition(ASR_TEXT)
    return bool(tag) and not rest and "\n" not in head.strip() and _language_of(head) is not None


def _language_of(head: str) -> str | None:
    """The name on the first line of the head that starts with `language `, first letter upper, rest lower."""
    for line in head.splitlines():
        line = line.strip()
        if line.lower().startswith("language "):
            name = line[len("language ") :].strip()
            return name[:1].upper() + name[1:].lower()
    return None


def collapse_repeats(text: str) -> str:
    """Shorten degenerate repetition as the official package does.

    A run of more than 20 equal characters becomes one; a pattern of up to 20 characters that occurs at
    least 20 times in a row becomes one copy.
    """
    return _collapse_patterns(_collapse_runs(text))


def _collapse_runs(text: str) -> str:
    kept: list[str] = []
    index = 0
    while index < len(text):
        stop = index
        while stop < len(text) and text[stop] == text[index]:
            stop += 1
        count = stop - index
        kept.append(text[index] if count > _REPEATS_THAT_COLLAPSE else text[index] * count)
        index = stop
    return "".join(kept)


def _collapse_patterns(text: str) -> str:
    kept: list[str] = []
    index = 0
    while index < len(text):
        collapsed = _pattern_at(text, index)
        if collapsed is None:
            kept.append(text[index])
            index += 1
        else:
            pattern, index = collapsed
            kept.append(pattern)
    return "".join(kept)


def _pattern_at(text: str, index: int) -> tuple[str, int] | None:
    """The shortest pattern repeated often enough from `index` on, and where its repeats end."""
    if len(text) - index < 2 * _REPEATS_THAT_COLLAPSE:
        return None
    for period in range(1, _LONGEST_PERIOD + 1):
        if index + period * _REPEATS_THAT_COLLAPSE > len(text):
            return None
        pattern = text[index : index + period]
        if not text.startswith(pattern * _REPEATS_THAT_COLLAPSE, index):
            continue
        stop = index + period * _REPEATS_THAT_COLLAPSE
        while text.startswith(pattern, stop):
            stop += period
        return pattern, stop
    return None
