"""`scribewire transcribe --diarize`: a child process tells the speakers apart while this one transcribes."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from scribewire.engine.processes.launch import SPEAKER_CHILD_MODULE
from scribewire.engine.processes.speaker_process import SpeakerProcess
from scribewire.engine.protocol.attribution import with_speakers
from scribewire.engine.protocol.config import AudioLimits
from scribewire.engine.protocol.speakers import DiarizationConfig, Diarize, Diarized, SpeakerOptions
from scribewire.engine.protocol.transcript import Transcript

TIMEOUT_SECONDS = 24 * 3600.0


class Diarizer:
    """A child process for one run of the command. A context manager; entering it waits until the child is ready.

    One thread has the event loop on which the child is spoken to.
    """

    def __init__(
        self, config: DiarizationConfig, options: SpeakerOptions, *, module: str = SPEAKER_CHILD_MODULE
    ) -> None:
        """module: what the child runs."""
        self._config = config
        self._options = options
        self._module = module
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="speakers")
        self._runner = asyncio.Runner()
        self._process: SpeakerProcess | None = None

    def __enter__(self) -> Diarizer:
        """Start the child; raises SpeakersUnavailable, SpeakersFailed."""
        try:
            self._thread.submit(self._runner.run, self._ready()).result()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.child.kill()
        self._thread.submit(self._leave)
        self._thread.shutdown(wait=True)

    @contextlib.contextmanager
    def beside(self, path: Path) -> Iterator[Callable[[Transcript], Transcript]]:
        """Tell the speakers of a recording apart while the block runs; gives a function that joins the result.

        The function waits, and raises SpeakersFailed. A block that raises stops the work.
        """
        working: Future[Diarized] = self._thread.submit(self._diarize, path)

        def joined(transcript: Transcript) -> Transcript:
            found = working.result()
            attributed = with_speakers(transcript, found.turns)
            return replace(attributed, warnings=(*attributed.warnings, *found.notices))

        try:
            yield joined
        except BaseException:
            if not working.cancel() and not working.done() and self._process is not None:
                self._process.child.kill()
            raise

    def _diarize(self, path: Path) -> Diarized:
        # Only now: the help of the command has no need of a decoder.
        from scribewire.engine.audio.transcode import open_audio

        with tempfile.NamedTemporaryFile(prefix="scribewire-samples-") as samples:
            with path.open("rb") as recording, open_audio(recording, limits=AudioLimits()) as stream:
                for block in stream.blocks():
                    samples.write(block.astype("<f4", copy=False).tobytes())
            samples.flush()
            wanted = self._options
            task = Diarize(0, samples.name, wanted.num_speakers, wanted.min_speakers, wanted.max_speakers)
            return self._runner.run(self._told_apart(task))

    async def _told_apart(self, task: Diarize) -> Diarized:
        return await (await self._ready()).diarize(task, timeout_seconds=TIMEOUT_SECONDS)

    async def _ready(self) -> SpeakerProcess:
        """The child; another one when the last recording ended it."""
        if self._process is not None and self._process.child.is_alive:
            return self._process
        if self._process is not None:
            await self._process.close()
        self._process = await SpeakerProcess.start(self._config, module=self._module)
        await self._process.wait_ready()
        return self._process

    def _leave(self) -> None:
        with self._runner:
            if self._process is not None:
                self._runner.run(self._process.close())
