"""wyoming_openai, the bridge that Home Assistant speaks to: started as its users start it, spoken to in its protocol.

The audio goes to the bridge in small pieces, as a microphone's does; the bridge makes one WAV of it and uploads that.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import socket
import sys
import time
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from checks import Checks, assert_words
from wyoming.asr import Transcribe, Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.info import Describe, Info

CHECKS = Checks()
PLAN = CHECKS.plan
ENGLISH, SPANISH = PLAN["recordings"]["english"], PLAN["recordings"]["spanish"]
START_SECONDS = 60.0
ANSWER_SECONDS = 120.0
PIECE_SAMPLES = 1024


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def bridge(*flags: str, key: str = PLAN["key"]) -> AsyncIterator[AsyncTcpClient]:
    """A bridge in front of the server, and a connection to it."""
    port = free_port()
    command = [sys.executable, "-m", "wyoming_openai", "--uri", f"tcp://127.0.0.1:{port}"]
    command += [
        "--stt-openai-url",
        PLAN["base_url"],
        "--stt-openai-key",
        key,
        "--languages",
        "en",
        "es",
        *flags,
    ]
    process = await asyncio.create_subprocess_exec(*command, stdout=sys.stderr)
    try:
        client = await connected(port, process)
        try:
            yield client
        finally:
            await client.disconnect()
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def connected(port: int, process: asyncio.subprocess.Process) -> AsyncTcpClient:
    """A connection to the bridge, as soon as it listens."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        client = AsyncTcpClient("127.0.0.1", port)
        try:
            await client.connect()
        except OSError:
            assert process.returncode is None, "the bridge ended"
            assert time.monotonic() < deadline, "the bridge does not listen"
            await asyncio.sleep(0.1)
        else:
            return client


class BridgeFailed(Exception):
    """The bridge answered with an error of its own."""


async def heard(client: AsyncTcpClient, recording: dict[str, Any], *, name: str) -> tuple[str, list[str]]:
    """The final transcript and the pieces that came before it. Raises BridgeFailed."""
    with wave.open(recording["path"]) as file:
        shape = {"rate": file.getframerate(), "width": file.getsampwidth(), "channels": file.getnchannels()}
        await client.write_event(Transcribe(name=name, language=recording["code"]).event())
        await client.write_event(AudioStart(**shape).event())
        while piece := file.readframes(PIECE_SAMPLES):
            await client.write_event(AudioChunk(audio=piece, **shape).event())
        await client.write_event(AudioStop().event())
    pieces: list[str] = []
    async with asyncio.timeout(ANSWER_SECONDS):
        while event := await client.read_event():
            if Error.is_type(event.type):
                raise BridgeFailed(Error.from_event(event).text)
            if TranscriptChunk.is_type(event.type):
                pieces.append(TranscriptChunk.from_event(event).text)
            if Transcript.is_type(event.type):
                return Transcript.from_event(event).text, pieces
    raise AssertionError("the bridge hung up")


async def described() -> None:
    async with bridge("--stt-models", "whisper-1") as client:
        await client.write_event(Describe().event())
        async with asyncio.timeout(ANSWER_SECONDS):
            event = await client.read_event()
        assert event is not None
        names = [model.name for program in Info.from_event(event).asr for model in program.models]
        assert names == ["whisper-1"], names


async def transcribed() -> None:
    for recording in (ENGLISH, SPANISH):
        # A connection each, as Home Assistant does.
        async with bridge("--stt-models", "whisper-1", "demo") as client:
            said, _ = await heard(client, recording, name="whisper-1")
            assert_words(said, recording)


async def with_options() -> None:
    flags = ("--stt-models", "demo", "--stt-temperature", "0", "--stt-prompt", "A journey by train.")
    async with bridge(*flags) as client:
        said, _ = await heard(client, ENGLISH, name="demo")
        assert_words(said, ENGLISH)


async def streamed() -> None:
    # A prompt of its own: what was transcribed before would be answered in one piece.
    flags = ("--stt-streaming-models", "gpt-4o-transcribe", "--stt-prompt", "Streamed.")
    async with bridge(*flags) as client:
        said, pieces = await heard(client, SPANISH, name="gpt-4o-transcribe")
        assert_words(said, SPANISH)
        assert len(pieces) > 1, pieces
        assert "".join(pieces) == said, (pieces, said)


async def wrong_key() -> None:
    async with bridge("--stt-models", "whisper-1", key="sk-wrong") as client:
        try:
            said, _ = await heard(client, ENGLISH, name="whisper-1")
        except BridgeFailed:
            return
        raise AssertionError(f"a wrong key was answered {said!r}")


def version_is_the_pinned_one() -> None:
    assert importlib.metadata.version("wyoming_openai") == PLAN["version"]


CHECKS.add("version", version_is_the_pinned_one)
CHECKS.add("description", lambda: asyncio.run(described()))
CHECKS.add("transcription in two languages", lambda: asyncio.run(transcribed()))
CHECKS.add("prompt and temperature", lambda: asyncio.run(with_options()))
CHECKS.add("streamed transcription", lambda: asyncio.run(streamed()))
CHECKS.add("wrong key becomes the bridge's error", lambda: asyncio.run(wrong_key()))
CHECKS.run()
