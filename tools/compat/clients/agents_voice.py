"""openai-agents' OpenAISTTModel.transcribe, the part of its voice pipeline that asks by HTTP.

Its other part, create_session, transcribes a stream over the realtime WebSocket, which this server does not serve.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import wave
from typing import Any

import numpy as np
import openai
from agents import set_tracing_disabled
from agents.voice import AudioInput, OpenAIVoiceModelProvider, STTModelSettings
from checks import Checks, assert_words, raised

CHECKS = Checks()
PLAN = CHECKS.plan
ENGLISH, SPANISH = PLAN["recordings"]["english"], PLAN["recordings"]["spanish"]
os.environ["OPENAI_API_KEY"] = PLAN["key"]
set_tracing_disabled(True)


def recorded(recording: dict[str, Any]) -> AudioInput:
    with wave.open(recording["path"]) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
        return AudioInput(buffer=samples, frame_rate=file.getframerate(), channels=file.getnchannels())


def said(
    recording: dict[str, Any], model: str | None = None, *, key: str = PLAN["key"], **settings: Any
) -> str:
    async def call() -> str:
        async with openai.AsyncOpenAI(api_key=key, base_url=PLAN["base_url"], max_retries=0) as client:
            spoken = OpenAIVoiceModelProvider(openai_client=client).get_stt_model(model)
            return await spoken.transcribe(recorded(recording), STTModelSettings(**settings), False, False)

    return asyncio.run(call())


def version_is_the_pinned_one() -> None:
    assert importlib.metadata.version("openai-agents") == PLAN["version"]


def options() -> None:
    assert_words(said(SPANISH, language="es", prompt="Un viaje.", temperature=0.0), SPANISH)
    # The name for which it sends `languages`.
    assert_words(said(SPANISH, "gpt-transcribe", language="es"), SPANISH)


def errors() -> None:
    raised(openai.AuthenticationError, lambda: said(ENGLISH, key="wrong"))
    raised(openai.NotFoundError, lambda: said(ENGLISH, "no-such-model"))


CHECKS.add("version", version_is_the_pinned_one)
CHECKS.add("transcribe with the default model", lambda: assert_words(said(ENGLISH), ENGLISH))
CHECKS.add("whisper-1", lambda: assert_words(said(ENGLISH, "whisper-1"), ENGLISH))
CHECKS.add("language, languages, prompt, temperature", options)
CHECKS.add("AuthenticationError, NotFoundError", errors)
CHECKS.run()
