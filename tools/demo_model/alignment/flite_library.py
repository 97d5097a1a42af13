"""flite called as a library, because only its utterance structure says when each word begins and ends.

The sound is what the program `flite` makes of the same text and settings, but for the noise that three of its voices
draw as they go. Standard library only: it runs
in a child process that has the synthesizers' own libraries on its search path, and may fall with them.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_POINTER = ctypes.c_void_p
_FIRST_SEGMENT_START = b"R:SylStructure.daughter1.daughter1.R:Segment.p.end"
_LAST_SEGMENT_END = b"R:SylStructure.daughtern.daughtern.R:Segment.end"


class _Wave(ctypes.Structure):
    """cst_wave of flite 2: type, rate, length, channels, samples."""

    _fields_ = (
        ("type", ctypes.c_char_p),
        ("rate", ctypes.c_int),
        ("sample_count", ctypes.c_int),
        ("channels", ctypes.c_int),
        ("samples", _POINTER),
    )


class _Voice(ctypes.Structure):
    """The head of cst_voice of flite 2; what follows is not touched."""

    _fields_ = (("name", ctypes.c_char_p), ("features", _POINTER))


@dataclass(frozen=True)
class _KnownVoice:
    voice: ctypes._Pointer[_Voice]
    pitch_hz: float | None  # its own pitch target, None when it has none


class Flite:
    """The library with the voices used so far."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libflite.so.1", mode=ctypes.RTLD_GLOBAL)
        for part in ("cmulex", "usenglish"):
            ctypes.CDLL(f"libflite_{part}.so.1", mode=ctypes.RTLD_GLOBAL)
        self._voices: dict[str, _KnownVoice] = {}
        declared = (
            ("flite_init", ctypes.c_int, ()),
            ("flite_synth_text", _POINTER, (ctypes.c_char_p, ctypes.POINTER(_Voice))),
            ("delete_utterance", None, (_POINTER,)),
            ("utt_wave", ctypes.POINTER(_Wave), (_POINTER,)),
            ("utt_relation", _POINTER, (_POINTER, ctypes.c_char_p)),
            ("relation_head", _POINTER, (_POINTER,)),
            ("item_next", _POINTER, (_POINTER,)),
            ("item_daughter", _POINTER, (_POINTER,)),
            ("item_feat_string", ctypes.c_char_p, (_POINTER, ctypes.c_char_p)),
            ("ffeature_float", ctypes.c_float, (_POINTER, ctypes.c_char_p)),
            ("feat_set_float", None, (_POINTER, ctypes.c_char_p, ctypes.c_float)),
            ("feat_float", ctypes.c_float, (_POINTER, ctypes.c_char_p)),
            ("feat_present", ctypes.c_int, (_POINTER, ctypes.c_char_p)),
            ("feat_remove", ctypes.c_int, (_POINTER, ctypes.c_char_p)),
        )
        for name, result, arguments in declared:
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, list(arguments)
        self._library.flite_init()

    def speak(
        self, text: str, voice_name: str, stretch: float, pitch_hz: float
    ) -> tuple[int, bytes, list[tuple[str, float, float]]]:
        """Sample rate, int16 samples, and (token, start, end) in seconds for each token of the text.

        A token is what flite makes of what stands between spaces, without the marks around it. pitch_hz 0 is the
        voice's own. A token that is not spoken has start and end 0.
        """
        voice = self._voice(voice_name, stretch, pitch_hz)
        utterance = self._library.flite_synth_text(text.encode(), voice)
        if not utterance:
            raise ValueError("flite made no utterance")
        try:
            wave = self._library.utt_wave(utterance).contents
            samples = ctypes.string_at(wave.samples, 2 * wave.sample_count * wave.channels)
            return wave.rate, samples, self._tokens(utterance)
        finally:
            self._library.delete_utterance(utterance)

    def _voice(self, name: str, stretch: float, pitch_hz: float) -> ctypes._Pointer[_Voice]:
        if name not in self._voices:
            register = getattr(ctypes.CDLL(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}")
            register.restype, register.argtypes = ctypes.POINTER(_Voice), [ctypes.c_char_p]
            made = register(None)
            features = made.contents.features
            present = self._library.feat_present(features, b"int_f0_target_mean")
            own = self._library.feat_float(features, b"int_f0_target_mean") if present else None
            self._voices[name] = _KnownVoice(made, own)
        known = self._voices[name]
        features = known.voice.contents.features
        self._library.feat_set_float(features, b"duration_stretch", stretch)
        if pitch_hz > 0 or known.pitch_hz is not None:
            target = pitch_hz if pitch_hz > 0 else known.pitch_hz
            self._library.feat_set_float(features, b"int_f0_target_mean", target)
        else:
            self._library.feat_remove(features, b"int_f0_target_mean")
        return known.voice

    def _tokens(self, utterance: int) -> list[tuple[str, float, float]]:
        found = []
        token = self._library.relation_head(self._library.utt_relation(utterance, b"Token"))
        while token:
            start = end = 0.0
            word = self._library.item_daughter(token)
            while word:
                word_end = self._library.ffeature_float(word, _LAST_SEGMENT_END)
                if word_end > 0:
                    if end == 0:
                        start = self._library.ffeature_float(word, _FIRST_SEGMENT_START)
                    end = word_end
                word = self._library.item_next(word)
            name = self._library.item_feat_string(token, b"name").decode("utf-8", "replace")
            found.append((name, start, end))
            token = self._library.item_next(token)
        return found
