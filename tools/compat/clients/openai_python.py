"""openai-python of any version, sync and async: formats, uploads, options, streaming, retries, error classes.

What a version cannot say by itself (an old one has no `include`) is sent through `extra_body`, as its users do.
"""

from __future__ import annotations

import base64
import inspect
import io
import json
import tempfile
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import openai
from checks import (
    Checks,
    assert_logprobs,
    assert_srt,
    assert_timed_words,
    assert_token_usage,
    assert_verbose,
    assert_vtt,
    assert_words,
)
from openai_modes import Async, Sync

CHECKS = Checks()
PLAN = CHECKS.plan
ENGLISH, SPANISH = PLAN["recordings"]["english"], PLAN["recordings"]["spanish"]
WAV = Path(ENGLISH["path"]).read_bytes()

NEWER = {"chunking_strategy", "include", "keywords", "languages", "stream", "timestamp_granularities"}
SPEAKS = {
    "1.3.9": set(),
    "1.59.9": {"timestamp_granularities"},
    "2.54.0": NEWER,
    "3.57.0": NEWER,
}[PLAN["version"]]
IS_NEWEST = PLAN["version"] == "3.57.0"


def as_dict(answer: Any) -> dict[str, Any]:
    """A pydantic answer as plain data, whatever its version's method is called."""
    return json.loads(answer.model_dump_json())


def attempts(path: str) -> list[dict[str, Any]]:
    """Requests that the fault proxy saw under one of its addresses."""
    with urllib.request.urlopen(f"{PLAN['fault_url']}/{path}/attempts") as answer:
        return json.load(answer)


def error_of(call: Callable[[], Any]) -> Any:
    """The error that the call raises."""
    try:
        call()
    except openai.APIError as error:
        return error
    return None


NAMES = ["demo", "whisper-1", "gpt-4o-transcribe"]
if IS_NEWEST:
    from openai_strictly import EVERY_NAME, strict_checks

    NAMES += EVERY_NAME


class Suite:
    """Every check, for one of the two clients."""

    def __init__(self, mode: Sync | Async) -> None:
        self.mode = mode
        self.default = mode.client()

    def create(
        self, recording: Any = ENGLISH, *, client: Any = None, file: Any = None, **options: Any
    ) -> Any:
        """One transcription; options this version lacks travel in extra_body."""
        extra = {name: options.pop(name) for name in NEWER - SPEAKS if name in options}
        # These versions refuse to repeat a field in a form.
        for name, value in extra.items():
            if isinstance(value, list):
                extra[name] = ",".join(value)
        if extra:
            options["extra_body"] = extra
        options.setdefault("model", "whisper-1")
        chosen = Path(recording["path"]) if file is None else file
        return self.mode.wait((client or self.default).audio.transcriptions.create(file=chosen, **options))

    def refused(self, kind: type[Exception], status: int, code: str | None, call: Callable[[], Any]) -> Any:
        """The call fails with exactly this class, in OpenAI's shape; returns the error."""
        error = error_of(call)
        assert type(error) is kind, f"{type(error).__name__} and not {kind.__name__}: {error}"
        assert error.status_code == status, error.status_code
        assert code is None or error.code == code, error.code
        assert isinstance(error.body, dict), error.body
        assert set(error.body) == {"message", "type", "param", "code"}, error.body
        assert error.body["message"]
        assert error.response.headers["x-request-id"].startswith("req_")
        assert getattr(error, "request_id", None) in (None, error.response.headers["x-request-id"])
        return error

    def formats(self) -> dict[str, Callable[[], Any]]:
        def as_json() -> None:
            for model in ("gpt-4o-transcribe", "whisper-1"):
                body = as_dict(self.create(model=model))
                assert_words(body["text"], ENGLISH)
                assert body["languages"] == [{"code": "en"}], body["languages"]
                if model == "whisper-1":
                    assert body["usage"]["type"] == "duration", body["usage"]
                    assert abs(body["usage"]["seconds"] - ENGLISH["seconds"]) < 0.1, body["usage"]
                else:
                    assert_token_usage(body["usage"])

        def segments() -> None:
            body = as_dict(self.create(response_format="verbose_json", timestamp_granularities=["segment"]))
            assert_verbose(body, ENGLISH)

        def words() -> None:
            for wanted in (["word"], ["word", "segment"]):
                asked = {"response_format": "verbose_json", "timestamp_granularities": wanted}
                body = as_dict(self.create(**asked))
                assert_timed_words(body["words"], ENGLISH)
                if "segment" in wanted:
                    assert_verbose(body, ENGLISH)
                else:
                    assert not body.get("segments"), body["segments"]

        def logprobs() -> None:
            body = as_dict(self.create(response_format="json", include=["logprobs"]))
            assert_words(body["text"], ENGLISH)
            assert_logprobs(body["logprobs"], ENGLISH)

        return {
            "json": as_json,
            "text": lambda: assert_words(self.create(response_format="text"), ENGLISH),
            "verbose_json": lambda: assert_verbose(
                as_dict(self.create(SPANISH, response_format="verbose_json")), SPANISH
            ),
            "srt": lambda: assert_srt(self.create(response_format="srt"), ENGLISH),
            "vtt": lambda: assert_vtt(self.create(SPANISH, response_format="vtt"), SPANISH),
            "segment timestamps": segments,
            "word timestamps": words,
            "logprobs": logprobs,
        }

    def options(self) -> dict[str, Callable[[], Any]]:
        def said(recording: dict[str, Any], **options: Any) -> None:
            assert_words(self.create(recording, **options).text, recording)

        def languages() -> None:
            body = as_dict(self.create(SPANISH, model="gpt-4o-transcribe", languages=["en", "es"]))
            assert_words(body["text"], SPANISH)
            assert body["languages"] == [{"code": "es"}], body["languages"]

        def language_names() -> None:
            for recording, names in ((ENGLISH, ("en", "en-US", "English")), (SPANISH, ("es", "Spanish"))):
                for name in names:
                    said(recording, language=name)

        def chunking() -> None:
            said(ENGLISH, chunking_strategy="auto")
            vad = {
                "type": "server_vad",
                "prefix_padding_ms": 200,
                "silence_duration_ms": 400,
                "threshold": 0.4,
            }
            said(ENGLISH, chunking_strategy=vad)

        return {
            "model aliases": lambda: [said(ENGLISH, model=name) for name in NAMES],
            "language": language_names,
            "languages": languages,
            "keywords": lambda: said(ENGLISH, keywords=["ticket", "coat"]),
            "prompt and temperature": lambda: said(ENGLISH, prompt="A journey by train.", temperature=0.0),
            "chunking strategy": chunking,
            "unknown field is ignored": lambda: said(ENGLISH, extra_body={"shoe_size": "44"}),
        }

    def uploads(self) -> dict[str, Callable[[], Any]]:
        def said(file: Any) -> None:
            assert_words(self.create(file=file).text, ENGLISH)

        def opened() -> None:
            with open(ENGLISH["path"], "rb") as file:
                said(file)

        def utf8_name() -> None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "Žluťoučký kůň 録音.wav")
                path.write_bytes(WAV)
                said(path)

        def together() -> None:
            calls = [
                lambda one=one: self.default.audio.transcriptions.create(
                    file=Path(one["path"]), model="whisper-1", prompt="Four at once."
                )
                for one in (ENGLISH, SPANISH, ENGLISH, SPANISH)
            ]
            answers = self.mode.gather(calls)
            for answer, recording in zip(answers, (ENGLISH, SPANISH, ENGLISH, SPANISH), strict=True):
                assert_words(answer.text, recording)

        return {
            "upload: path": lambda: said(Path(ENGLISH["path"])),
            "upload: nameless bytes": lambda: said(WAV),
            "upload: name and bytes": lambda: said(("speech.wav", WAV)),
            "upload: name, bytes and type": lambda: said(("speech.mp3", WAV, "audio/mpeg")),
            "upload: open file": opened,
            "upload: file-like object": lambda: said(io.BytesIO(WAV)),
            "upload: UTF-8 name": utf8_name,
            "four recordings": together,
        }

    def streaming(self) -> dict[str, Callable[[], Any]]:
        def checked(events: list[Any], recording: dict[str, Any]) -> None:
            kinds = [event.type for event in events]
            assert set(kinds[:-1]) == {"transcript.text.delta"}, kinds
            assert kinds[-1] == "transcript.text.done", kinds
            assert len(kinds) > 2, "everything came at once"
            assert "".join(event.delta for event in events[:-1]) == events[-1].text
            assert_words(events[-1].text, recording)
            assert_token_usage(as_dict(events[-1])["usage"])

        # A prompt of its own for each: what was transcribed before would be answered in one piece.
        prompt = f"Streamed, {self.mode.name}"

        def streamed() -> None:
            checked(self.mode.events(self.create(stream=True, prompt=prompt)), ENGLISH)
            options = {"stream": True, "language": "es", "prompt": prompt}
            checked(self.mode.events(self.create(SPANISH, **options)), SPANISH)

        def with_logprobs() -> None:
            options = {"response_format": "json", "include": ["logprobs"], "prompt": f"{prompt}, logprobs"}
            events = self.mode.events(self.create(stream=True, **options))
            checked(events, ENGLISH)
            bodies = [as_dict(event) for event in events]
            assert_logprobs([one for body in bodies[:-1] for one in body["logprobs"]], ENGLISH)
            assert_logprobs(bodies[-1]["logprobs"], ENGLISH)

        def left_early() -> None:
            stream = self.create(SPANISH, stream=True, prompt=f"{prompt}, left early")
            assert self.mode.first_event(stream).type == "transcript.text.delta"
            assert_words(self.create(SPANISH, prompt=f"{prompt}, after that").text, SPANISH)

        def bad_recording() -> None:
            self.refused(
                openai.BadRequestError,
                400,
                "audio_format_unsupported",
                lambda: self.mode.events(self.create(file=b"no recording" * 99, stream=True)),
            )

        if "stream" not in SPEAKS:
            return {}
        return {
            "stream": streamed,
            "stream with logprobs": with_logprobs,
            "stream left early": left_early,
            "stream of no recording": bad_recording,
        }

    def errors(self) -> dict[str, Callable[[], Any]]:
        def wrong_key() -> None:
            stranger = self.mode.client(api_key="sk-wrong")
            for call in (
                lambda: self.create(client=stranger),
                lambda: self.mode.wait(stranger.models.list()),
            ):
                self.refused(openai.AuthenticationError, 401, "invalid_api_key", call)

        def no_such_model() -> None:
            def by_call() -> Any:
                return self.create(model="no-such-model")

            def by_lookup() -> Any:
                return self.mode.wait(self.default.models.retrieve("Qwen/No-Such-Model"))

            for call in (by_call, by_lookup):
                self.refused(openai.NotFoundError, 404, "model_not_found", call)

        def bad_requests() -> None:
            # UnprocessableEntityError would be another class; refused() takes none but the named one.
            kind = openai.BadRequestError
            for call, params in (
                (lambda: self.create(file=b"This is a letter." * 50), (None, "file")),
                (lambda: self.create(file=b""), (None, "file")),
                (lambda: self.create(response_format="mp3"), ("response_format",)),
                (lambda: self.create(temperature=7.0), ("temperature",)),
                (lambda: self.create(language="Klingon"), ("language",)),
            ):
                error = self.refused(kind, 400, None, call)
                assert error.param in params, f"param is {error.param!r}: {error}"

        def translation() -> None:
            def call() -> Any:
                path = Path(SPANISH["path"])
                return self.mode.wait(self.default.audio.translations.create(file=path, model="whisper-1"))

            self.refused(openai.BadRequestError, 400, "unsupported_endpoint", call)

        def post(body: dict[str, Any]) -> Any:
            return self.mode.wait(
                self.default.post("/audio/transcriptions", cast_to=dict[str, Any], body=body)
            )

        def local_file() -> None:
            allowed = post({"model": "whisper-1", "file_path": PLAN["allowed_file"]})
            assert_words(allowed["text"], ENGLISH)
            outside = {"model": "whisper-1", "file_path": ENGLISH["path"]}
            self.refused(openai.PermissionDeniedError, 403, None, lambda: post(outside))

        def json_body() -> None:
            audio = {"data": base64.b64encode(WAV).decode(), "format": "wav"}
            body = {"model": "whisper-1", "language": "en", "input_audio": audio}
            assert_words(post(body)["text"], ENGLISH)

        def rate_limit() -> None:
            key = PLAN["limited_keys"][self.mode.name]
            limited = self.mode.client(api_key=key, base_url=PLAN["limited_url"], max_retries=0)
            assert_words(self.create(client=limited).text, ENGLISH)
            error = self.refused(openai.RateLimitError, 429, None, partial(self.create, client=limited))
            assert int(error.response.headers["retry-after"]) > 0

        return {
            "AuthenticationError": wrong_key,
            "NotFoundError": no_such_model,
            "BadRequestError": bad_requests,
            "BadRequestError for a translation": translation,
            "PermissionDeniedError": local_file,
            "RateLimitError": rate_limit,
            "JSON body": json_body,
        }

    def retries(self) -> dict[str, Callable[[], Any]]:
        def through(fault: str) -> tuple[Any, str]:
            path = f"{fault}/{PLAN['fault_token']}.{self.mode.name}"
            return self.mode.client(base_url=f"{PLAN['fault_url']}/{path}/v1"), path

        def retried(fault: str, *, pause_seconds: float = 0.0) -> None:
            client, path = through(fault)
            assert_words(self.create(client=client, prompt=f"Through {fault}.").text, ENGLISH)
            seen = attempts(path)
            assert len(seen) == 2, seen
            # A lower bound only: the server's Retry-After was waited for.
            assert seen[1]["at"] - seen[0]["at"] >= pause_seconds, seen

        def not_retried() -> None:
            client, path = through("broken-for-good")
            self.refused(openai.InternalServerError, 503, "model_invalid", lambda: self.create(client=client))
            assert len(attempts(path)) == 1, attempts(path)

        def bad_audio() -> None:
            client, path = through("watch")
            letter = partial(self.create, client=client, file=b"This is a letter." * 50)
            self.refused(openai.BadRequestError, 400, "audio_format_unsupported", letter)
            assert len(attempts(path)) == 1, "bad audio was uploaded more than once"

        return {
            "retry after 503": lambda: retried("unavailable-once", pause_seconds=0.95),
            "retry after 429": lambda: retried("busy-once", pause_seconds=0.95),
            "retry on x-should-retry: true": lambda: retried("retry-wanted-once"),
            "retry after a lost answer": lambda: retried("answer-lost-once"),
            "no retry on x-should-retry: false": not_retried,
            "no retry of bad audio": bad_audio,
        }

    def models(self) -> dict[str, Callable[[], Any]]:
        def listed() -> None:
            models = self.mode.wait(self.default.models.list()).data
            assert "demo" in [model.id for model in models], models
            known = json.dumps([as_dict(model) for model in models])
            for alias in ("whisper-1", "gpt-4o-transcribe"):
                assert f'"{alias}"' in known, known
            for model in models:
                assert model.object == "model"
                assert isinstance(model.created, int)
                assert self.mode.wait(self.default.models.retrieve(model.id)).id == model.id

        def retrieved() -> None:
            for name in ("demo", "whisper-1", "gpt-4o-transcribe"):
                assert self.mode.wait(self.default.models.retrieve(name)).id in (name, "demo")

        return {"models.list": listed, "models.retrieve": retrieved}

    def raw(self) -> dict[str, Callable[[], Any]]:
        def headers() -> None:
            call = self.default.audio.transcriptions.with_raw_response.create
            answer = self.mode.wait(call(file=Path(ENGLISH["path"]), model="whisper-1"))
            assert answer.headers["x-request-id"].startswith("req_")
            assert_words(self.mode.wait(answer.parse()).text, ENGLISH)

        return {"x-request-id": headers}

    def all(self) -> dict[str, Callable[[], Any]]:
        """Every check by its name."""
        found: dict[str, Callable[[], Any]] = {}
        for group in (
            self.formats,
            self.options,
            self.uploads,
            self.streaming,
            self.errors,
            self.retries,
            self.models,
            self.raw,
        ):
            found.update(group())
        return found


def version_is_the_pinned_one() -> None:
    assert openai.__version__ == PLAN["version"], openai.__version__
    client = openai.OpenAI(api_key="none", base_url=PLAN["base_url"])
    parameters = set(inspect.signature(client.audio.transcriptions.create).parameters)
    assert parameters & NEWER == SPEAKS, parameters


CHECKS.add("version", version_is_the_pinned_one)
for chosen_mode in (Sync(PLAN), Async(PLAN)):
    suite = Suite(chosen_mode)
    for check_name, claim in {**suite.all(), **(strict_checks(suite, ENGLISH) if IS_NEWEST else {})}.items():
        CHECKS.add(f"{chosen_mode.name}: {check_name}", claim)
CHECKS.run()
