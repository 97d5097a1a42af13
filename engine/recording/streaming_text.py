"""Text sent while it is decoded: what goes out stays, and all of it together is the transcript.

Chunks of a recording are decoded side by side, but only the earliest unfinished one sends; the others wait until
they are the earliest. It knows neither tokens nor networks.
"""

from __future__ import annotations

from collections.abc import Callable

from scribewire.engine.protocol.transcript import TokenLogprob
from scribewire.engine.text.joining import join_texts

DeltaCallback = Callable[[str, tuple[TokenLogprob, ...]], None]
"""Called with text that follows all text before it, and the log-probabilities of its tokens."""


class StreamingText:
    """The text of one recording as it grows."""

    def __init__(self, on_delta: DeltaCallback) -> None:
        self._on_delta = on_delta
        self._last_character = ""
        self._last_language: str | None = None
        self._sent = ""
        self._waiting: list[TokenLogprob] = []
        self.logprobs_taken = 0

    @property
    def sent(self) -> str:
        """Text that the current chunk has sent."""
        return self._sent

    def grow(self, text: str, language: str | None, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Send what is new in the current chunk's text; logprobs: of its tokens behind the `logprobs_taken` first."""
        self._waiting += logprobs
        self.logprobs_taken += len(logprobs)
        self._send(_certain(text), language)

    def finish(self, text: str, language: str | None, logprobs: tuple[TokenLogprob, ...]) -> str:
        """End the current chunk with its text. Returns the text that it must have, now that some of it was sent.

        They differ only where a second attempt heard otherwise; what was sent is kept. logprobs: of all its tokens.
        """
        self._waiting += logprobs[self.logprobs_taken :]
        text = continued(self._sent, text.strip())
        self._send(text, language)
        if text:
            self._last_character, self._last_language = text[-1], language
        self._sent, self._waiting = "", []
        self.logprobs_taken = 0
        return text

    def _send(self, text: str, language: str | None) -> None:
        if len(text) <= len(self._sent):
            return
        delta = text[len(self._sent) :]
        if not self._sent and self._last_character:
            joined = join_texts([(self._last_character, self._last_language), (text, language)])
            delta = joined[len(self._last_character) :]
        self._sent = text
        logprobs, self._waiting = tuple(self._waiting), []
        self._on_delta(delta, logprobs)


def _certain(text: str) -> str:
    """Text without what the next token may change: a character whose bytes are not all there, whitespace at the end."""
    return text.rstrip("\ufffd").strip()


def continued(sent: str, text: str) -> str:
    """`text`, beginning with `sent`: where it does not by itself, `sent` and what of `text` follows it.

    By words, or by characters in a text without spaces. It follows where the fewest words of `sent` would have to be
    changed to get there (edit distance); of equal places the one nearest to as many words as were sent.
    """
    if text.startswith(sent):
        return text
    space = " " if " " in text.strip() else ""
    said = sent.casefold().split() if space else list(sent)
    words = text.split() if space else list(text)
    # costs[k]: changes between all of `said` so far and the first k words.
    costs = list(range(len(words) + 1))
    for place, word in enumerate(said, start=1):
        before, costs[0] = costs[0], place
        for k, other in enumerate(words, start=1):
            same = before + (word != other.casefold())
            before, costs[k] = costs[k], min(same, costs[k] + 1, costs[k - 1] + 1)
    best = min(range(len(costs)), key=lambda k: (costs[k], abs(k - len(said))))
    rest = space.join(words[best:])
    return f"{sent}{space}{rest}" if rest else sent
