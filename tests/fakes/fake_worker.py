"""A worker that speaks the protocol with no model and no MLX, and breaks on cue.

Started as the real one is, with `module=FAKE_WORKER_MODULE`. It refuses to be mistaken for
the real one: its model id starts with `fake`, unless the model asked for is `demo`.

The model's name scripts the load, `fake:key=value,key=value`:

    load_seconds=0.5   be slow to load              refuse=CODE        answer LoadFailed with this error code
    exit=N             exit with N while loading    hang=1             never say Ready
    deaf=1             ignore Shutdown and SIGTERM  version=N          claim another protocol version

The recording scripts the answer. When its bytes are a JSON object, these keys are obeyed, in this order; any other
recording is answered with its size and SHA-256, so that a test can see that it arrived whole:

    stderr: text        write to standard error           loading_seconds: n   say for so long that a model is loaded
    delay_seconds: n    work for so long, open to Cancel
    partials: [texts]   one segment each, sent at once too  partial_delay_seconds: n between two of them
    deltas: [texts]     as TextDelta where wanted         delta_delay_seconds: n   before every one but the first
    gate: path          work until this file is there, open to Cancel
    exit: n             leave with os._exit(n)            abort: true          abort() as a failing C++ library does
    half_message: true  die in the middle of a message    hang: true           never answer, whatever comes
    freeze: true        stop this process (SIGSTOP)       leak_bytes: n        take memory, never give it back
    break_times: n      break so often, no more           break_counter: path  a file that counts how often it did
    fail: code          answer Failed with this code      message: text        its message
    text: text          the answer                        language: name       its language, null for none
    token_logprobs: [numbers]  of the answer's words in turn, where the options ask for them; -0.25 when used up
    echo_options: true  answer with the options as JSON   duration_seconds: n  the recording's length
    warnings: [texts]   the transcript's warnings         words: false         knows no word's time

Where the options ask for words, those of a segment share its time by their lengths.
The answer's text is `text`, else the deltas joined, else the partials with spaces between. Where deltas are wanted and
none are scripted, it is sent as one. A `text` that is not its deltas joined is what no real worker would send.
Languages are those of the table; English and Spanish are spoken. An empty recording is `audio_empty`.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import hashlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from scribewire.engine.processes.child import EXIT_PARENT_GONE
from scribewire.engine.protocol.config import DEMO_MODEL, EngineConfig, ModelInfo
from scribewire.engine.protocol.errors import (
    AudioEmpty,
    AudioUnreadable,
    EngineError,
    EngineUnavailable,
    RequestCancelled,
    error_from_code,
)
from scribewire.engine.protocol.languages import spoken_language
from scribewire.engine.protocol.messages import (
    PROTOCOL_VERSION,
    Cancel,
    Completed,
    Failed,
    FromWorker,
    Heartbeat,
    LoadFailed,
    Progress,
    Ready,
    SegmentDone,
    Shutdown,
    Started,
    TextDelta,
    Transcribe,
)
from scribewire.engine.protocol.transcript import Segment, TokenLogprob, TokenUsage, Transcript, Word

FAKE_WORKER_MODULE = "tests.fakes.fake_worker"

LANGUAGES = ("English", "Spanish")
LANGUAGE_CODES = ("en", "es")
HEARTBEAT_SECONDS = 1.0
FAKE_BYTES = 1 << 20
DEFAULT_LOGPROB = -0.25
MAX_SCRIPT_BYTES = 16 << 20
LEAK_STEP_BYTES = 1 << 20
GATE_STEP_SECONDS = 0.01


def main(config: EngineConfig, pipe: Connection) -> int:
    """Run until Shutdown, or until the front is gone; returns the exit code."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    script = _load_script(config.model)
    if script.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(float(script.get("load_seconds", 0)))
    if "exit" in script:
        print("fake worker: leaving while it loads", file=sys.stderr, flush=True)
        os._exit(int(script["exit"]))
    if script.get("hang"):
        threading.Event().wait()
    if "refuse" in script:
        pipe.send(LoadFailed(script["refuse"], f"fake worker: refuses to load {config.model}"))
        return 1
    worker = _FakeWorker(config, pipe, is_deaf=bool(script.get("deaf")))
    version = int(script.get("version", PROTOCOL_VERSION))
    worker.send(Ready(worker.info, os.getpid(), protocol_version=version))
    return worker.run()


def _load_script(model: str) -> dict[str, str]:
    _, _, text = model.partition(":")
    if not model.startswith("fake:"):
        return {}
    return dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)


class _Stopped(Exception):
    """This request was cancelled."""


class _FakeWorker:
    """Answers each request in a thread of its own, so that a script that hangs holds up nothing else."""

    def __init__(self, config: EngineConfig, pipe: Connection, *, is_deaf: bool) -> None:
        self._pipe = pipe
        self._is_deaf = is_deaf
        self._sending = threading.Lock()
        self._cancelled: dict[str, threading.Event] = {}
        self._chunks_done = 0
        self._tokens_done = 0
        self._leaked: list[bytes] = []
        self._is_loading = False
        self.info = ModelInfo(
            model_id=config.model,
            is_demo=config.model == DEMO_MODEL,
            languages=LANGUAGES,
            device="none",
            dtype="none",
            weight_bits=16,
            parameter_count=0,
            resident_bytes=0,
            load_seconds=0.0,
            language_codes=LANGUAGE_CODES,
        )

    def send(self, message: FromWorker) -> None:
        with self._sending:
            self._pipe.send(message)

    def run(self) -> int:
        beat_due = time.monotonic() + HEARTBEAT_SECONDS
        while True:
            if self._pipe.poll(max(0.0, beat_due - time.monotonic())):
                try:
                    message = self._pipe.recv()
                except (EOFError, OSError):
                    return EXIT_PARENT_GONE
                match message:
                    case Transcribe():
                        self._cancelled[message.request_id] = threading.Event()
                        threading.Thread(target=self._answer, args=(message,), daemon=True).start()
                    case Cancel() if message.request_id in self._cancelled:
                        self._cancelled[message.request_id].set()
                    case Shutdown() if not self._is_deaf:
                        self._drain(message.drain_seconds)
                        return 0
            if time.monotonic() >= beat_due:
                beat_due += HEARTBEAT_SECONDS
                self.send(self._heartbeat())

    def _heartbeat(self) -> Heartbeat:
        """Counters of what was really said; memory as if a small model were there."""
        return Heartbeat(
            chunks_done=self._chunks_done,
            tokens_done=self._tokens_done,
            active_requests=len(self._cancelled),
            queued_requests=0,
            resident_bytes=FAKE_BYTES,
            peak_bytes=2 * FAKE_BYTES,
            steps_done=self._tokens_done,
            row_slots_done=self._tokens_done,
            batch_rows=len(self._cancelled),
            device_active_bytes=FAKE_BYTES,
            device_peak_bytes=2 * FAKE_BYTES,
            device_cache_bytes=FAKE_BYTES,
            is_loading=self._is_loading,
        )

    def _drain(self, drain_seconds: float) -> None:
        deadline = time.monotonic() + drain_seconds
        while self._cancelled and time.monotonic() < deadline:
            time.sleep(0.01)
        for request_id in list(self._cancelled):
            self._fail(request_id, EngineUnavailable("the engine is stopping"))

    def _answer(self, request: Transcribe) -> None:
        try:
            self.send(Started(request.request_id))
            transcript = self._transcribe(request)
        except EngineError as error:
            self._fail(request.request_id, error)
        except _Stopped:
            self._fail(request.request_id, RequestCancelled("cancelled"))
        else:
            # The code that removes the request answers it: once, also when a shutdown comes in between.
            if self._cancelled.pop(request.request_id, None) is not None:
                self._chunks_done += 1
                self.send(Completed(request.request_id, transcript))

    def _fail(self, request_id: str, error: EngineError) -> None:
        if self._cancelled.pop(request_id, None) is not None:
            self.send(Failed(request_id, error.code, error.message, error.parameter))

    def _transcribe(self, request: Transcribe) -> Transcript:
        try:
            recording = Path(request.audio.path).read_bytes()
        except OSError as error:
            raise AudioUnreadable(f"the recording cannot be read: {error.strerror}") from None
        if not recording:
            raise AudioEmpty("the recording is empty (0 bytes)", parameter="file")
        forced = spoken_language(request.options.language or "", LANGUAGES)
        for one in request.options.languages:
            spoken_language(one, LANGUAGES, parameter="languages")
        script = _answer_script(recording)
        if "stderr" in script:
            print(script["stderr"], file=sys.stderr, flush=True)
        cancelled = self._cancelled[request.request_id]
        self._is_loading = "loading_seconds" in script
        _work(float(script.get("loading_seconds", 0)), cancelled)
        self._is_loading = False
        _work(float(script.get("delay_seconds", 0)), cancelled)
        language = script.get("language", forced or LANGUAGES[0])
        answer = _Answer(script, request, language)
        for segment in answer.partials():
            if request.wants_segments:
                self.send(SegmentDone(request.request_id, segment))
            self.send(Progress(request.request_id, segment.end_seconds, answer.duration_seconds))
            self._tokens_done += 1
            _work(float(script.get("partial_delay_seconds", 0)), cancelled)
        deltas = [str(text) for text in script.get("deltas", [])]
        for index, delta in enumerate(deltas):
            _work(float(script.get("delta_delay_seconds", 0)) if index else 0.0, cancelled)
            if request.wants_deltas:
                self.send(TextDelta(request.request_id, delta, answer.logprobs_of(delta)))
            self._tokens_done += 1
        while "gate" in script and not os.path.exists(script["gate"]):
            _work(GATE_STEP_SECONDS, cancelled)
        if _is_to_break(script):
            self._break(script)
        if "fail" in script:
            raise error_from_code(str(script["fail"]), str(script.get("message", "fails as it was told to")))
        text = str(script.get("text", "".join(deltas) or " ".join(answer.texts)))
        if script.get("echo_options"):
            text = json.dumps(dataclasses.asdict(request.options), sort_keys=True)
        elif not script:
            text = f"{len(recording)} bytes, SHA-256 {hashlib.sha256(recording).hexdigest()}"
        segments = answer.segments(text)
        if request.wants_deltas and text and not deltas:
            logprobs = tuple(one for segment in segments for one in segment.token_logprobs)
            self.send(TextDelta(request.request_id, text, logprobs))
        return Transcript(
            text=text,
            language=language,
            languages=(language,) if language else (),
            duration_seconds=answer.duration_seconds,
            segments=segments,
            model_id=self.info.model_id,
            usage=TokenUsage(audio_tokens=13, text_tokens=9, output_tokens=len(text.split())),
            warnings=tuple(str(warning) for warning in script.get("warnings", [])),
        )

    def _break(self, script: dict[str, Any]) -> None:
        if "exit" in script:
            os._exit(int(script["exit"]))
        if script.get("abort"):
            os.abort()
        if script.get("half_message"):
            with self._sending:
                # The length prefix of a message of 1,000 bytes, and not all of them.
                os.write(self._pipe.fileno(), (1000).to_bytes(4, "big") + b"\x80")
                os._exit(1)
        if "leak_bytes" in script:
            self._leak(int(script["leak_bytes"]))
        if script.get("freeze"):
            os.kill(os.getpid(), signal.SIGSTOP)
        # Other threads are stopped a moment before this one may be.
        if script.get("hang") or script.get("freeze"):
            threading.Event().wait()

    def _leak(self, byte_count: int) -> None:
        """Take memory bit by bit; one that is refused ends the process, as it ends an allocation in C++."""
        try:
            for _ in range(0, byte_count, LEAK_STEP_BYTES):
                # Not zeros, which would take no memory before they are written to.
                self._leaked.append(b"\x01" * LEAK_STEP_BYTES)
        except MemoryError:
            os.abort()


def _is_to_break(script: dict[str, Any]) -> bool:
    """True when this is one of the scripted times; counted in a file, because a worker that breaks forgets."""
    if "break_times" not in script:
        return True
    with open(script["break_counter"], "ab") as counter:
        if counter.tell() >= int(script["break_times"]):
            return False
        counter.write(b".")
    return True


def _work(seconds: float, cancelled: threading.Event) -> None:
    if cancelled.wait(seconds):
        raise _Stopped


def _answer_script(recording: bytes) -> dict[str, Any]:
    if len(recording) > MAX_SCRIPT_BYTES or not recording.startswith(b"{"):
        return {}
    try:
        script = json.loads(recording)
    except ValueError:
        return {}
    return script if isinstance(script, dict) else {}


class _Answer:
    """The segments of one answer, and the log-probabilities of their words, as the script has them."""

    def __init__(self, script: dict[str, Any], request: Transcribe, language: str | None) -> None:
        self._options = request.options
        self._language = language
        self._logprobs = [float(number) for number in script.get("token_logprobs", [])]
        self.duration_seconds = float(script.get("duration_seconds", 1.0))
        self.texts = [str(text) for text in script.get("partials", [])]
        self._knows_words = bool(script.get("words", True)) and request.options.words
        self._told = 0

    def partials(self) -> Iterator[Segment]:
        """The scripted segments, in order."""
        for index in range(len(self.texts)):
            yield self._segment(index, self.texts)
        self._told = 0

    def segments(self, text: str) -> tuple[Segment, ...]:
        """The scripted segments, or the one that holds the text."""
        self._told = 0
        texts = self.texts or ([text] if text else [])
        return tuple(self._segment(index, texts) for index in range(len(texts)))

    def logprobs_of(self, text: str) -> tuple[TokenLogprob, ...]:
        """Of the words of a text that follows those asked for before; none unless the options ask for them.

        Joined, the tokens are the text.
        """
        if not self._options.token_logprobs:
            return ()
        words = re.findall(r"\s*\S+(?:\s+\Z)?", text)
        first, self._told = self._told, self._told + len(words)
        numbers = [*self._logprobs[first : self._told], *[DEFAULT_LOGPROB] * len(words)]
        return tuple(
            TokenLogprob(word, word.encode(), number) for word, number in zip(words, numbers, strict=False)
        )

    def _segment(self, index: int, texts: list[str]) -> Segment:
        text = texts[index]
        start = self.duration_seconds * index / len(texts)
        end = self.duration_seconds * (index + 1) / len(texts)
        return Segment(
            index=index,
            start_seconds=start,
            end_seconds=end,
            text=text,
            language=self._language,
            tokens=tuple(range(1, len(text.split()) + 1)),
            temperature=self._options.temperature,
            avg_logprob=DEFAULT_LOGPROB if self._options.logprobs else None,
            compression_ratio=1.0,
            no_speech_prob=0.01 if self._options.logprobs else None,
            words=_spread(text, start, end) if self._knows_words else (),
            token_logprobs=self.logprobs_of(text),
        )


def _spread(text: str, start: float, end: float) -> tuple[Word, ...]:
    """The words of a text, each with a part of the time as long as its part of the letters."""
    spoken = re.findall(r"(\s*)(\S+)", text)
    letters = sum(len(word) for _, word in spoken)
    words: list[Word] = []
    before = 0
    for spacing, word in spoken:
        after = before + len(word)
        begun, ended = (start + (end - start) * place / letters for place in (before, after))
        words.append(Word(word, begun, ended, spacing if words else ""))
        before = after
    return tuple(words)
