"""LiveKit's openai.STT.recognize, which asks by HTTP; its streams use the realtime WebSocket."""

from __future__ import annotations

import asyncio
import importlib.metadata
import wave
from functools import partial
from typing import Any

from checks import Checks, assert_words, raised
from livekit import rtc
from livekit.agents import APIConnectOptions, APIStatusError
from livekit.plugins import openai

CHECKS = Checks()
PLAN = CHECKS.plan
ENGLISH, SPANISH = PLAN["recordings"]["english"], PLAN["recordings"]["spanish"]


def recorded(recording: dict[str, Any]) -> rtc.AudioFrame:
    with wave.open(recording["path"]) as file:
        count = file.getnframes()
        return rtc.AudioFrame(file.readframes(count), file.getframerate(), file.getnchannels(), count)


def recognized(recording: dict[str, Any], *, key: str = PLAN["key"], **options: Any) -> Any:
    async def call() -> Any:
        heard = openai.STT(base_url=PLAN["base_url"], api_key=key, **options)
        try:
            once = APIConnectOptions(max_retry=0)
            return await heard.recognize(recorded(recording), conn_options=once)
        finally:
            await heard.aclose()

    return asyncio.run(call()).alternatives[0]


def version_is_the_pinned_one() -> None:
    assert importlib.metadata.version("livekit-plugins-openai") == PLAN["version"]


def as_model(model: str) -> None:
    said = recognized(ENGLISH, model=model, language="en")
    assert_words(said.text, ENGLISH)
    assert str(said.language).lower().startswith("en"), said.language


def detected() -> None:
    said = recognized(SPANISH, model="whisper-1", detect_language=True)
    assert_words(said.text, SPANISH)
    assert str(said.language).lower() in ("es", "spanish"), said.language


def errors() -> None:
    for status, options in ((401, {"key": "wrong"}), (404, {"model": "no-such-model"})):
        asked = {"model": "whisper-1", **options}
        error = raised(APIStatusError, partial(recognized, ENGLISH, **asked))
        assert error.status_code == status, error.status_code


CHECKS.add("version", version_is_the_pinned_one)
CHECKS.add("gpt-4o-mini-transcribe: json", lambda: as_model("gpt-4o-mini-transcribe"))
CHECKS.add("gpt-transcribe: json", lambda: as_model("gpt-transcribe"))
CHECKS.add("whisper-1: verbose_json", lambda: as_model("whisper-1"))
CHECKS.add("language detected", detected)
CHECKS.add("errors", errors)
CHECKS.run()
