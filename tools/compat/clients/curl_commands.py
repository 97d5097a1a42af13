"""curl as people type it: forms, chunked and slow uploads, an aborted one, JSON bodies, events, and errors."""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

CHECKS = Checks()
PLAN = CHECKS.plan
ENGLISH, SPANISH = PLAN["recordings"]["english"], PLAN["recordings"]["spanish"]
WAV = Path(ENGLISH["path"]).read_bytes()
TRANSCRIPTIONS = f"{PLAN['base_url']}/audio/transcriptions"
KEY = ("-H", f"Authorization: Bearer {PLAN['key']}")
PATIENCE_SECONDS = 120
EXIT_TIMED_OUT = 28


@dataclass(frozen=True)
class Answer:
    """The outcome of one command."""

    exit_code: int
    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> dict[str, Any]:
        """The answer as JSON."""
        assert self.headers["content-type"] == "application/json", self.headers
        body: dict[str, Any] = json.loads(self.text)
        return body


def curl(
    *arguments: str, url: str = TRANSCRIPTIONS, key: tuple[str, ...] = KEY, stdin: bytes = b""
) -> Answer:
    """Run curl and read what it received."""
    with tempfile.TemporaryDirectory() as folder:
        head, body = Path(folder, "head"), Path(folder, "body")
        command = ["curl", "-sS", "--max-time", str(PATIENCE_SECONDS), "-D", str(head), "-o", str(body)]
        done = subprocess.run(
            [*command, *key, *arguments, url], input=stdin, capture_output=True, check=False
        )
        text = body.read_bytes().decode("utf-8") if body.exists() else ""
        # The last block: a 100 Continue and the tries before a retry come first.
        blocks = head.read_text(encoding="latin-1").replace("\r", "").strip() if head.exists() else ""
        first, _, rest = blocks.rpartition("\n\n")[2].partition("\n")
        pairs = (line.partition(":") for line in rest.splitlines())
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        return Answer(done.returncode, int(first.split()[1]) if first else 0, headers, text)


def form(*fields: str, recording: dict[str, Any] = ENGLISH) -> tuple[str, ...]:
    """The arguments of an ordinary form, the recording first."""
    return ("-F", f"file=@{recording['path']}", *(part for field in fields for part in ("-F", field)))


def answered(*arguments: str, recording: dict[str, Any] = ENGLISH, **options: Any) -> dict[str, Any]:
    """The JSON body of a 200 with the recording's words."""
    answer = curl(*arguments, **options)
    assert (answer.exit_code, answer.status) == (0, 200), answer
    assert answer.headers["x-request-id"].startswith("req_")
    assert_words(answer.body["text"], recording)
    return answer.body


def raw_answer(response_format: str) -> str:
    """The body of a format that is not JSON, and says so."""
    answer = curl(*form("model=whisper-1", f"response_format={response_format}"))
    assert answer.status == 200, answer
    assert not answer.headers["content-type"].startswith("application/json"), answer.headers
    return answer.text


def refused(status: int, code: str | None, *arguments: str, **options: Any) -> Answer:
    """An error in OpenAI's shape."""
    answer = curl(*arguments, **options)
    assert answer.status == status, answer
    error = answer.body["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert code is None or error["code"] == code, error
    assert answer.headers["x-request-id"].startswith("req_")
    return answer


def json_formats() -> None:
    assert answered(*form("model=whisper-1"))["usage"]["type"] == "duration"
    body = answered(*form("model=gpt-4o-transcribe"))
    assert body["languages"] == [{"code": "en"}]
    assert_token_usage(body["usage"])
    fields = ("response_format=verbose_json", "timestamp_granularities[]=segment")
    assert_verbose(answered(*form(*fields, recording=SPANISH), recording=SPANISH), SPANISH)
    for granularity in ("timestamp_granularities[]=word", "timestamp_granularities=word,segment"):
        assert_timed_words(answered(*form("response_format=verbose_json", granularity))["words"], ENGLISH)


def field_spellings() -> None:
    answered(*form())  # no model
    answered(*form("language=English", "temperature=0", "prompt=Über Züge", "shoe_size=44"))
    answered(*form("response_format=verbose_json", "timestamp_granularities=segment"))
    answered(*form("chunking_strategy[type]=server_vad", "chunking_strategy[threshold]=0.4"))
    listed = form("languages[]=en", "languages[]=es", "keywords[]=billete", recording=SPANISH)
    assert answered(*listed, recording=SPANISH)["languages"] == [{"code": "es"}]
    answered("-F", "model=whisper-1", *form())  # the recording last


def logprobs() -> None:
    for name in ("include[]", "include"):
        assert_logprobs(answered(*form(f"{name}=logprobs", "response_format=json"))["logprobs"], ENGLISH)


def file_names() -> None:
    path = ENGLISH["path"]
    answered("-F", f"file=@{path};filename=Žluťoučký kůň 録音.wav")
    answered("-F", f"file=@{path};filename=../../etc/passwd;type=application/x-unheard-of")
    answered("-F", "file=@-;filename=speech.wav", stdin=WAV)


def chunked() -> None:
    answered("-H", "Transfer-Encoding: chunked", *form("model=whisper-1"))


def form_through_upload() -> None:
    head = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    kind = "Content-Type: multipart/form-data; boundary=xyz"
    answered("-X", "POST", "-H", kind, "-T", "-", stdin=head + WAV + b"\r\n--xyz--\r\n")


def slow() -> None:
    # Some three seconds of upload, well above the slowest that the server allows.
    answered("--limit-rate", "60k", *form("prompt=Slowly."))


def aborted() -> None:
    answer = curl("--limit-rate", "20k", "--max-time", "1", *form("prompt=Aborted."))
    assert (answer.exit_code, answer.status) == (EXIT_TIMED_OUT, 0), answer
    answered(*form("prompt=After that."))


def other_protocols() -> None:
    answered("--http1.0", *form())
    answered("-H", "Expect: 100-continue", *form())


def post_json(body: dict[str, Any], **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Arguments and standard input of a JSON request."""
    arguments = ("-H", "Content-Type: application/json", "--data-binary", "@-")
    return arguments, {"stdin": json.dumps(body).encode(), **options}


def json_body() -> None:
    audio = {"data": base64.b64encode(WAV).decode(), "format": "wav"}
    arguments, options = post_json({"model": "whisper-1", "language": "en", "input_audio": audio})
    answered(*arguments, **options)


def local_file() -> None:
    arguments, options = post_json({"model": "whisper-1", "file_path": PLAN["allowed_file"]})
    answered(*arguments, **options)
    for outside in (ENGLISH["path"], PLAN["allowed_file"] + "/../../" + Path(PLAN["allowed_file"]).name):
        arguments, options = post_json({"model": "whisper-1", "file_path": outside})
        refused(403, None, *arguments, **options)


def events() -> None:
    answer = curl("-N", *form("stream=true", "include[]=logprobs", recording=SPANISH))
    assert answer.status == 200, answer
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.headers
    parts = [part for part in answer.text.replace("\r\n", "\n").split("\n\n") if part.strip()]
    datas = [part for part in parts if not part.startswith(":")]
    assert datas.pop() == "data: [DONE]", answer.text
    pairs = [part.removeprefix("event: ").split("\ndata: ") for part in datas]
    events = [json.loads(data) for _, data in pairs]
    assert [name for name, _ in pairs] == [one["type"] for one in events], answer.text
    assert {one["type"] for one in events[:-1]} == {"transcript.text.delta"}, events
    assert events[-1]["type"] == "transcript.text.done", events
    assert len(events) > 2, "everything came at once"
    assert "".join(one["delta"] for one in events[:-1]) == events[-1]["text"]
    assert_words(events[-1]["text"], SPANISH)
    assert_logprobs([one for event in events[:-1] for one in event["logprobs"]], SPANISH)
    assert_token_usage(events[-1]["usage"])


def refusals() -> None:
    answer = refused(401, "invalid_api_key", *form(), key=())
    assert answer.headers["www-authenticate"] == "Bearer"
    refused(401, "invalid_api_key", *form(), key=("-H", "Authorization: Bearer sk-wrong"))
    refused(404, "model_not_found", *form("model=no-such-model"))
    refused(404, "not_found", url=f"{PLAN['base_url']}/nothing")
    refused(405, "method_not_allowed", "-X", "PUT", *form())
    refused(400, "file_missing", "-F", "model=whisper-1")
    refused(400, None, "-d", "just some text")
    refused(400, "audio_format_unsupported", "-F", "file=@-;filename=a.wav", stdin=b"This is a letter." * 50)
    refused(400, None, *form("temperature=nan"))
    refused(400, None, *form("stream=perhaps"))
    refused(400, "unsupported_endpoint", *form(), url=f"{PLAN['base_url']}/audio/translations")


def limited() -> None:
    there = {
        "url": f"{PLAN['limited_url']}/audio/transcriptions",
        "key": ("-H", f"Authorization: Bearer {PLAN['limited_keys']['sync']}"),
    }
    answered(*form(), **there)
    assert int(refused(429, None, *form(), **there).headers["retry-after"]) > 0


def retried() -> None:
    base = f"{PLAN['fault_url']}/busy-once/{PLAN['fault_token']}"
    # curl waits as long as Retry-After says.
    answered("--retry", "2", *form(), url=f"{base}/v1/audio/transcriptions")
    with urllib.request.urlopen(f"{base}/attempts") as answer:
        seen = json.load(answer)
    assert len(seen) == 2, seen
    assert seen[1]["at"] - seen[0]["at"] >= 0.95, seen


def models() -> None:
    listed = curl(url=f"{PLAN['base_url']}/models").body
    assert listed["object"] == "list", listed
    assert "demo" in [one["id"] for one in listed["data"]], listed
    for alias in ("whisper-1", "gpt-4o-transcribe"):
        assert f'"{alias}"' in json.dumps(listed), listed
    # The kind of id that holds a slash, sent as SDKs send it.
    error = refused(404, "model_not_found", url=f"{PLAN['base_url']}/models/Qwen%2FQwen3-ASR-0.6B")
    assert "Qwen/Qwen3-ASR-0.6B" in error.text, error


CHECKS.add("json and verbose_json", json_formats)
CHECKS.add("text", lambda: assert_words(raw_answer("text"), ENGLISH))
CHECKS.add("srt", lambda: assert_srt(raw_answer("srt"), ENGLISH))
CHECKS.add("vtt", lambda: assert_vtt(raw_answer("vtt"), ENGLISH))
CHECKS.add("fields with and without brackets", field_spellings)
CHECKS.add("logprobs", logprobs)
CHECKS.add("names and types of files", file_names)
CHECKS.add("chunked form", chunked)
CHECKS.add("form through -T", form_through_upload)
CHECKS.add("slow upload (--limit-rate)", slow)
CHECKS.add("upload aborted half-way", aborted)
CHECKS.add("HTTP/1.0 and Expect: 100-continue", other_protocols)
CHECKS.add("JSON body", json_body)
CHECKS.add("file_path, allowed and not", local_file)
CHECKS.add("server-sent events", events)
CHECKS.add("errors", refusals)
CHECKS.add("rate limit with Retry-After", limited)
CHECKS.add("--retry after 429", retried)
CHECKS.add("models", models)
CHECKS.run()
