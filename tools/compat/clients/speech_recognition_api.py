"""SpeechRecognition's recognize_openai and recognize_groq, with the server in the environment as its users set it."""

from __future__ import annotations

import importlib.metadata
import os
from functools import partial
from typing import Any

import groq
import openai
import speech_recognition
from checks import Checks, assert_words, raised

CHECKS = Checks()
PLAN = CHECKS.plan
ENGLISH, SPANISH = PLAN["recordings"]["english"], PLAN["recordings"]["spanish"]
RECOGNIZER = speech_recognition.Recognizer()
os.environ |= {
    "OPENAI_BASE_URL": PLAN["base_url"],
    "OPENAI_API_KEY": PLAN["key"],
    "GROQ_BASE_URL": PLAN["base_url"].removesuffix("/v1"),
    "GROQ_API_KEY": PLAN["key"],
}


def recorded(recording: dict[str, Any]) -> speech_recognition.AudioData:
    """What Recognizer.record gives for a file."""
    with speech_recognition.AudioFile(recording["path"]) as source:
        return RECOGNIZER.record(source)


def version_is_the_pinned_one() -> None:
    assert importlib.metadata.version("SpeechRecognition") == PLAN["version"]


def by_openai() -> None:
    for model in ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"):
        assert_words(RECOGNIZER.recognize_openai(recorded(ENGLISH), model=model), ENGLISH)
    options = {"language": "es", "prompt": "Un viaje.", "temperature": 0.0}
    assert_words(RECOGNIZER.recognize_openai(recorded(SPANISH), **options), SPANISH)


def by_groq() -> None:
    for model in ("whisper-large-v3-turbo", "whisper-large-v3"):
        assert_words(RECOGNIZER.recognize_groq(recorded(ENGLISH), model=model), ENGLISH)


def errors() -> None:
    for recognize, kind in (
        (RECOGNIZER.recognize_openai, openai.NotFoundError),
        (RECOGNIZER.recognize_groq, groq.NotFoundError),
    ):
        error = raised(kind, partial(recognize, recorded(ENGLISH), model="no-such-model"))
        assert error.status_code == 404, error.status_code


CHECKS.add("version", version_is_the_pinned_one)
CHECKS.add("recognize_openai: three models, language, prompt, temperature", by_openai)
CHECKS.add("recognize_groq: two models", by_groq)
CHECKS.add("NotFoundError of both", errors)
CHECKS.run()
