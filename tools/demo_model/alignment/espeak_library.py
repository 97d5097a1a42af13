"""espeak-ng called as a library, because only its events say when each word and each phoneme begins.

A word event names a place in the text, which abbreviations and pairs shift by a few characters, and which is wild in
plain text; in SSML, with a mark before every word that keeps the words apart, it is never nearer to another word. (The
marks' own events come late after some pairs.) Some pairs of small words ("of the", "I am") are one entry of its
dictionary: such a pair mostly has one event, and is divided by phonemes where the words alone have as many as the pair.
Standard library only: it runs in a child process, as flite_library.py does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape

# enum values and flags of speak_lib.h, espeak-ng 1.51
_RETRIEVAL = 1  # AUDIO_OUTPUT_RETRIEVAL: samples come to the callback, and play nowhere
_PHONEME_EVENTS, _DONT_EXIT = 0x0001, 0x8000
_UTF8, _SSML, _PHONEMES, _END_PAUSE = 0x0001, 0x0010, 0x0100, 0x1000
_RATE, _PITCH = 1, 3
_LIST_END, _WORD, _PHONEME = 0, 1, 7
_MARK = '<mark name="w"/>'
_MOST_REMEMBERED = 4096


class _Identity(ctypes.Union):
    _fields_ = (
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("phoneme", ctypes.c_char * 8),
    )


class _Event(ctypes.Structure):
    """espeak_EVENT: times in milliseconds and in samples."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("message", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Identity),
    )


class _VoiceWanted(ctypes.Structure):
    """espeak_VOICE."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("reserved", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class _Phoneme:
    name: str
    sample: int

    @property
    def is_pause(self) -> bool:
        return self.name.startswith("_") or not self.name


@dataclass
class _Spoken:
    """The events that the callback gathers in one call."""

    pieces: list[bytes]
    words: list[tuple[int, int]]  # place in the text, sample
    phonemes: list[_Phoneme]


class Espeak:
    """The library; one voice at a time, set anew for every text."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libespeak-ng.so.1")
        self._spoken = _Spoken([], [], [])
        signature = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))
        self._callback = signature(self._take)  # kept: the library holds only its address
        self.rate = self._library.espeak_Initialize(_RETRIEVAL, 0, None, _PHONEME_EVENTS | _DONT_EXIT)
        if self.rate <= 0:
            raise OSError("espeak-ng did not start: its data was not found")
        self._library.espeak_SetSynthCallback(self._callback)
        self._phoneme_counts: dict[tuple[str, str], int] = {}

    def _take(self, samples: int | None, count: int, events: Any) -> int:
        if samples and count > 0:
            self._spoken.pieces.append(ctypes.string_at(samples, 2 * count))
        place = 0
        while events[place].type != _LIST_END:
            event = events[place]
            if event.type == _WORD:
                self._spoken.words.append((event.text_position - 1, event.sample))
            elif event.type == _PHONEME:
                name = event.id.phoneme.decode("utf-8", "replace")
                self._spoken.phonemes.append(_Phoneme(name, event.sample))
            place += 1
        return 0

    def speak(
        self, tokens: Sequence[str], is_word: Sequence[bool], voice: str, speed: int, pitch: int
    ) -> tuple[int, bytes, list[tuple[float | None, float | None]]]:
        """Sample rate, int16 samples, and (start, end) in seconds of each token that is a word.

        None stands for the border between two words that espeak-ng speaks as one and that cannot be told apart.
        """
        self._choose(voice, speed, pitch)
        text, ends = "", []
        for token, wanted in zip(tokens, is_word, strict=True):
            if wanted:
                text += _MARK
                ends.append(len(text) + len(escape(token)))
            text += escape(token) + " "
        words = [token for token, wanted in zip(tokens, is_word, strict=True) if wanted]
        spoken = self._run(text.strip(), _SSML | _END_PAUSE)
        samples = b"".join(spoken.pieces)
        times = self._times(spoken, words, ends, len(samples) // 2, voice)
        return self.rate, samples, times

    def _choose(self, voice: str, speed: int, pitch: int) -> None:
        # As the program does: a name first ("en-us"), then a language ("en-gb" is a language of the voice "en").
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            wanted = _VoiceWanted(languages=voice.encode())
            if self._library.espeak_SetVoiceByProperties(ctypes.byref(wanted)) != 0:
                raise ValueError(f"espeak-ng has no voice {voice}")
        self._library.espeak_SetParameter(_RATE, speed, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)

    def _run(self, text: str, flags: int) -> _Spoken:
        self._spoken = _Spoken([], [], [])
        encoded = text.encode()
        failed = self._library.espeak_Synth(
            encoded, ctypes.c_size_t(len(encoded) + 1), 0, 1, 0, _UTF8 | _PHONEMES | flags, None, None
        )
        if failed or self._library.espeak_Synchronize():
            raise ValueError(f"espeak-ng refused the text (code {failed})")
        return self._spoken

    def _times(
        self, spoken: _Spoken, words: Sequence[str], ends: Sequence[int], sample_count: int, voice: str
    ) -> list[tuple[float | None, float | None]]:
        starts = word_starts(spoken.words, ends)
        # A word without an event of its own was said together with the word before it.
        groups: list[list[int]] = []
        for number, start in enumerate(starts):
            if start is not None or not groups:
                groups.append([number])
            else:
                groups[-1].append(number)
        borders: list[tuple[int | None, int | None]] = []
        for place, group in enumerate(groups):
            first = starts[group[0]]
            limit = starts[groups[place + 1][0]] if place + 1 < len(groups) else sample_count
            if first is None or limit is None:
                raise ValueError("espeak-ng did not say where the first word begins")
            sounds = self._sounds(spoken, first, limit)
            if not sounds:
                raise ValueError(f"espeak-ng said nothing for {words[group[0]]!r}")
            after = [
                p.sample for p in spoken.phonemes if p.is_pause and sounds[-1].sample < p.sample <= limit
            ]
            last = min(after, default=limit)
            inner = self._inner_borders([words[number] for number in group], sounds, voice)
            edges = [first, *inner, last]
            borders += pairwise(edges)
        return [
            (None if a is None else a / self.rate, None if b is None else b / self.rate) for a, b in borders
        ]

    @staticmethod
    def _sounds(spoken: _Spoken, first: int, limit: int) -> list[_Phoneme]:
        return [p for p in spoken.phonemes if first <= p.sample < limit and not p.is_pause]

    def _inner_borders(
        self, words: Sequence[str], sounds: Sequence[_Phoneme], voice: str
    ) -> list[int | None]:
        """Samples where the second and further words of a group begin."""
        if len(words) == 1:
            return []
        accent = voice.partition("+")[0]
        counts = [self._phonemes_alone(word, accent) for word in words]
        if sum(counts) != len(sounds):
            return [None] * (len(words) - 1)
        return [sounds[sum(counts[:number])].sample for number in range(1, len(words))]

    def _phonemes_alone(self, word: str, accent: str) -> int:
        """Number of phonemes of the word when it stands alone, in the voice that is set."""
        if len(self._phoneme_counts) > _MOST_REMEMBERED:
            self._phoneme_counts.clear()
        key = (accent, word)
        if key not in self._phoneme_counts:
            alone = self._run(word, 0)
            self._phoneme_counts[key] = sum(not phoneme.is_pause for phoneme in alone.phonemes)
        return self._phoneme_counts[key]


def word_starts(events: Sequence[tuple[int, int]], ends: Sequence[int]) -> list[int | None]:
    """The sample at which each word begins, None for a word without an event.

    events: (place in the text, sample) in the order of speaking; ends: place after each word's last character
    """
    starts: list[int | None] = [None] * len(ends)
    number = 0
    for place, sample in events:
        here = next((n for n in range(number, len(ends)) if ends[n] > place), len(ends) - 1)
        if starts[here] is None:
            starts[here] = sample
            number = here
        elif here + 1 < len(ends) and not any(here + 1 == _word_at(p, ends) for p, _ in events):
            # A second event on one word: the next word's, if no event is nearer to it. Else a part of the same word.
            starts[here + 1] = sample
            number = here + 1
    return starts


def _word_at(place: int, ends: Sequence[int]) -> int:
    return next((number for number, end in enumerate(ends) if end > place), len(ends) - 1)
