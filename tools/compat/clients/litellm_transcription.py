"""LiteLLM's transcription() and atranscription(): it asks for verbose_json by itself, to learn the duration."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import litellm
import openai
from checks import Checks, assert_srt, assert_verbose, assert_vtt, assert_words

CHECKS = Checks()
PLAN = CHECKS.plan
ENGLISH, SPANISH = PLAN["recordings"]["english"], PLAN["recordings"]["spanish"]


def called(recording: dict[str, Any] = ENGLISH, **options: Any) -> Any:
    """One call as its users write it."""
    options = {"api_base": PLAN["base_url"], "api_key": PLAN["key"], "model": "openai/whisper-1", **options}
    with open(recording["path"], "rb") as file:
        return litellm.transcription(file=file, **options)


def called_async(recording: dict[str, Any] = ENGLISH, **options: Any) -> Any:
    """The same through atranscription."""
    options = {"api_base": PLAN["base_url"], "api_key": PLAN["key"], "model": "openai/whisper-1", **options}

    async def call() -> Any:
        return await litellm.atranscription(file=Path(recording["path"]).read_bytes(), **options)

    return asyncio.run(call())


def refused(kind: type[openai.APIStatusError], status: int, *calls: Callable[[], Any]) -> None:
    """Each call fails with this class and status; the synchronous ones raise OpenAI's class, the others a subclass."""
    for call in calls:
        error = error_of(call)
        assert isinstance(error, kind), f"{type(error).__name__} and not {kind.__name__}: {error}"
        assert error.status_code == status, error.status_code


def error_of(call: Callable[[], Any]) -> Exception | None:
    """The error that the call raises."""
    try:
        call()
    except Exception as error:
        return error
    return None


def version_is_the_pinned_one() -> None:
    assert importlib.metadata.version("litellm") == PLAN["version"]


def verbose_json() -> None:
    for call in (called, called_async):
        body = json.loads(call(SPANISH, response_format="verbose_json").model_dump_json())
        assert_verbose({**body, "usage": body.get("usage") or {}}, SPANISH)


def duration_is_known() -> None:
    answer = called()
    assert_words(answer.text, ENGLISH)
    assert abs(answer.duration - ENGLISH["seconds"]) < 0.1, answer.duration


def names_of_the_model() -> None:
    for name in ("openai/gpt-4o-transcribe", "openai/demo"):
        assert_words(called(model=name).text, ENGLISH)
        assert_words(called_async(SPANISH, model=name).text, SPANISH)


def options_pass_through() -> None:
    answer = called(language="en", prompt="A journey by train.", temperature=0)
    assert_words(answer.text, ENGLISH)
    assert_words(called(timestamp_granularities=["segment"]).text, ENGLISH)


def text_of(answer: Any) -> str:
    return answer if isinstance(answer, str) else answer.text


def no_recording() -> Any:
    options = {"api_base": PLAN["base_url"], "api_key": PLAN["key"], "model": "openai/whisper-1"}
    return litellm.transcription(file=("a.wav", b"This is a letter." * 50), **options)


def wrong_key() -> None:
    calls = [partial(call, api_key="sk-wrong") for call in (called, called_async)]
    refused(openai.AuthenticationError, 401, *calls)
    assert type(error_of(calls[1])) is litellm.AuthenticationError


def no_such_model() -> None:
    calls = [partial(call, model="openai/no-such-model") for call in (called, called_async)]
    refused(openai.NotFoundError, 404, *calls)
    assert type(error_of(calls[1])) is litellm.NotFoundError


def rate_limit() -> None:
    limited = {"api_base": PLAN["limited_url"], "api_key": PLAN["limited_keys"]["sync"], "max_retries": 0}
    assert_words(called(**limited).text, ENGLISH)
    refused(openai.RateLimitError, 429, lambda: called(**limited))


def retried() -> None:
    base = f"{PLAN['fault_url']}/unavailable-once/{PLAN['fault_token']}"
    assert_words(called(api_base=f"{base}/v1", max_retries=2).text, ENGLISH)
    with urllib.request.urlopen(f"{base}/attempts") as answer:
        seen = json.load(answer)
    assert len(seen) == 2, seen


CHECKS.add("version", version_is_the_pinned_one)
CHECKS.add("json, with the duration from verbose_json", duration_is_known)
CHECKS.add("async: json", lambda: assert_words(called_async(SPANISH).text, SPANISH))
CHECKS.add("verbose_json", verbose_json)
CHECKS.add("text", lambda: assert_words(text_of(called(response_format="text")), ENGLISH))
CHECKS.add("srt", lambda: assert_srt(text_of(called(response_format="srt")), ENGLISH))
CHECKS.add("vtt", lambda: assert_vtt(text_of(called_async(response_format="vtt")), ENGLISH))
CHECKS.add("names of the model", names_of_the_model)
CHECKS.add("language, prompt, temperature, granularity", options_pass_through)
CHECKS.add("AuthenticationError", wrong_key)
CHECKS.add("NotFoundError", no_such_model)
CHECKS.add("BadRequestError", lambda: refused(openai.BadRequestError, 400, no_recording))
CHECKS.add("RateLimitError", rate_limit)
CHECKS.add("retry after 503", retried)
CHECKS.run()
