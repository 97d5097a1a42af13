"""Groq's SDK, whose addresses begin with /openai/v1: formats, words, options, error classes."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import groq
from checks import Checks, assert_timed_words, assert_verbose, assert_words, raised

CHECKS = Checks()
PLAN = CHECKS.plan
ENGLISH, SPANISH = PLAN["recordings"]["english"], PLAN["recordings"]["spanish"]
ROOT = PLAN["base_url"].removesuffix("/v1")


def client(**options: Any) -> groq.Groq:
    return groq.Groq(**{"api_key": PLAN["key"], "base_url": ROOT, **options})


def create(recording: dict[str, Any] = ENGLISH, *, by: groq.Groq | None = None, **options: Any) -> Any:
    options = {"model": "whisper-large-v3-turbo", **options}
    return (by or client()).audio.transcriptions.create(file=Path(recording["path"]), **options)


def version_is_the_pinned_one() -> None:
    assert importlib.metadata.version("groq") == PLAN["version"]


def async_json() -> None:
    async def call() -> Any:
        async with groq.AsyncGroq(api_key=PLAN["key"], base_url=ROOT) as caller:
            path = Path(SPANISH["path"])
            return await caller.audio.transcriptions.create(file=path, model="whisper-large-v3")

    assert_words(asyncio.run(call()).text, SPANISH)


def verbose_json() -> None:
    options = {"response_format": "verbose_json", "timestamp_granularities": ["word", "segment"]}
    body = json.loads(create(**options).model_dump_json())
    assert_verbose(body, ENGLISH)
    assert_timed_words(body["words"], ENGLISH)


def options_pass() -> None:
    assert_words(create(language="en", prompt="A journey by train.", temperature=0.0).text, ENGLISH)
    assert_words(create(response_format="text"), ENGLISH)


def refused(kind: type[groq.APIStatusError], status: int, **options: Any) -> None:
    error = raised(kind, lambda: create(**options))
    assert error.status_code == status, error.status_code


def models() -> None:
    assert "whisper-large-v3" in [one.id for one in client().models.list().data]
    assert client().models.retrieve("whisper-large-v3-turbo").id == "whisper-large-v3-turbo"


def rate_limit() -> None:
    limited = client(
        api_key=PLAN["limited_keys"]["sync"], base_url=PLAN["limited_url"].removesuffix("/v1"), max_retries=0
    )
    assert_words(create(by=limited).text, ENGLISH)
    refused(groq.RateLimitError, 429, by=limited)


CHECKS.add("version", version_is_the_pinned_one)
CHECKS.add("json", lambda: assert_words(create().text, ENGLISH))
CHECKS.add("async: json", async_json)
CHECKS.add("verbose_json with words and segments", verbose_json)
CHECKS.add("text, language, prompt, temperature", options_pass)
CHECKS.add("AuthenticationError", lambda: refused(groq.AuthenticationError, 401, by=client(api_key="wrong")))
CHECKS.add("NotFoundError", lambda: refused(groq.NotFoundError, 404, model="no-such-model"))
CHECKS.add("BadRequestError", lambda: refused(groq.BadRequestError, 400, language="Klingon"))
CHECKS.add("RateLimitError", rate_limit)
CHECKS.add("models", models)
CHECKS.run()
