"""pipecat's OpenAISTTService: one stretch of speech, as its pipeline hands it over, and the frames made of it."""

from __future__ import annotations

import asyncio
import importlib.metadata
from pathlib import Path
from typing import Any

from checks import Checks, assert_words
from pipecat.frames.frames import ErrorFrame, TranscriptionFrame
from pipecat.services.openai.stt import OpenAISTTService
from pipecat.transcriptions.language import Language

CHECKS = Checks()
PLAN = CHECKS.plan
ENGLISH, SPANISH = PLAN["recordings"]["english"], PLAN["recordings"]["spanish"]


def frames(
    recording: dict[str, Any], *, key: str = PLAN["key"], metrics: bool = False, **settings: Any
) -> list:
    """The frames that the service makes of one stretch of speech, which it is handed as a WAV file."""

    async def call() -> list:
        service = OpenAISTTService(
            api_key=key,
            base_url=PLAN["base_url"],
            include_prob_metrics=metrics,
            settings=OpenAISTTService.Settings(**settings),
        )
        return [frame async for frame in service.run_stt(Path(recording["path"]).read_bytes())]

    return asyncio.run(call())


def said(recording: dict[str, Any], **options: Any) -> Any:
    (frame,) = frames(recording, **options)
    assert isinstance(frame, TranscriptionFrame), frame
    assert_words(frame.text, recording)
    return frame.result


def version_is_the_pinned_one() -> None:
    assert importlib.metadata.version("pipecat-ai") == PLAN["version"]


def options() -> None:
    said(SPANISH, language=Language.ES, prompt="Un viaje.", temperature=0.0, keywords=["tren"])


def probabilities() -> None:
    assert said(ENGLISH, metrics=True, model="gpt-4o-transcribe").logprobs
    assert said(ENGLISH, metrics=True, model="whisper-1").segments[0].avg_logprob <= 0


def errors() -> None:
    for options, words in (
        ({"key": "wrong"}, "Error code: 401"),
        ({"model": "no-such-model"}, "Error code: 404"),
    ):
        (frame,) = frames(ENGLISH, **options)
        assert isinstance(frame, ErrorFrame), frame
        assert words in frame.error, frame.error


CHECKS.add("version", version_is_the_pinned_one)
CHECKS.add("default model (gpt-transcribe)", lambda: said(ENGLISH))
CHECKS.add("whisper-1", lambda: said(ENGLISH, model="whisper-1"))
CHECKS.add("language, prompt, temperature, keywords", options)
CHECKS.add("probabilities: logprobs and verbose_json", probabilities)
CHECKS.add("errors become frames", errors)
CHECKS.run()
