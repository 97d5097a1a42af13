"""The command line of `scribewire transcribe`: its options, and the request that they make.

Refused here is what cannot be meant; nothing is read of a recording, and no model is loaded.
"""

from __future__ import annotations

import argparse
from typing import Literal

from scribewire.engine.cli.results import EXTENSIONS, FORMATS
from scribewire.engine.cli.transcribe import Request
from scribewire.engine.protocol.config import (
    AUTO_ALIGNER,
    DEFAULT_MODEL,
    Chunking,
    EngineConfig,
    TranscribeOptions,
)
from scribewire.engine.protocol.errors import EngineError
from scribewire.engine.protocol.languages import resolve_language
from scribewire.engine.protocol.speakers import DEFAULT_DIARIZATION_MODEL, SpeakerOptions
from scribewire.engine.protocol.whole_file import (
    STANDARD_INPUT,
    OutputInvalid,
    chosen_formats,
    chosen_output,
    find_recordings,
)
from scribewire.engine.subtitles import RENDERERS

_LONGEST_CHUNK_SECONDS = 180.0
"""Source: the official package cuts so long pieces where words are timed."""


class UsageError(Exception):
    """An option that argparse takes but the command cannot."""

    def __init__(self, command: str, message: str) -> None:
        super().__init__(message)
        self.command = command


def add_transcribe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `transcribe`."""
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a recording, a video or a folder; - reads standard input"
    )
    parser.add_argument(
        "-f",
        "--format",
        action="append",
        default=[],
        metavar="FORMAT",
        help="txt (default), json, subtitles as srt, vtt, tsv or lrc, or all; several with commas or one -f each",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="PLACE",
        help="a file such as talk.srt, or a folder for NAME.txt, NAME.srt and so on (of several formats: this one)",
    )
    parser.add_argument(
        "-r", "--recursive", action="store_true", help="of folders, transcribe the recordings in them"
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="replace results that are there already")
    existing.add_argument(
        "--skip-existing", action="store_true", help="pass over recordings whose results are there already"
    )
    parser.add_argument(
        "--language",
        metavar="LANG",
        help="name, ISO code or region tag (es, Spanish, es-MX); default: detected",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="context: names, spellings, the subject")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        default=DEFAULT_MODEL,
        help="a folder, a Hugging Face id, or demo (default: %(default)s)",
    )
    parser.add_argument(
        "--words",
        action="store_true",
        help="find out when each word was said, fetching the aligner if need be; subtitles do it anyway if it is there",
    )
    parser.add_argument(
        "--aligner",
        metavar="MODEL",
        default=AUTO_ALIGNER,
        help="the forced aligner of words: a folder, a Hugging Face id, auto (default) or none",
    )
    parser.add_argument(
        "--diarize",
        action="store_true",
        help="tell the speakers apart (.venv/bin/pip install -e '.[speakers]'); they are named A, B, C",
    )
    parser.add_argument("--num-speakers", type=int, metavar="N", help="how many there are, if you know")
    parser.add_argument("--min-speakers", type=int, metavar="N", help="there are at least so many")
    parser.add_argument("--max-speakers", type=int, metavar="N", help="there are at most so many")
    parser.add_argument(
        "--diarization-model",
        metavar="MODEL",
        default=DEFAULT_DIARIZATION_MODEL,
        help="a pipeline of pyannote.audio: a folder or a Hugging Face id (default: %(default)s)",
    )
    parser.add_argument(
        "--diarization-device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="where it computes (default: %(default)s)",
    )
    parser.add_argument(
        "--vad",
        action="store_true",
        help="find speech by voice detection instead of by loudness: music and noise between speech are left out",
    )
    parser.add_argument(
        "--vad-threshold",
        type=float,
        default=Chunking().threshold,
        metavar="P",
        help="with --vad: probability from which it is speech, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--max-chunk-seconds",
        type=float,
        default=EngineConfig().max_chunk_seconds,
        metavar="S",
        help="longest stretch that is decoded at once; longer ones are cut at pauses (default: %(default)g)",
    )
    parser.add_argument(
        "--min-chunk-seconds",
        type=float,
        default=EngineConfig().min_chunk_seconds,
        metavar="S",
        help="no cut is looked for before; 0 (default) is two thirds of the longest",
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0 (default) is deterministic"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="makes a temperature above 0 repeatable")
    parser.add_argument("--traceback", action="store_true", help="show where an unexpected failure came from")


def engine_config_of(arguments: argparse.Namespace) -> EngineConfig:
    """The configuration of the engine that these options ask for."""
    return EngineConfig(
        model=arguments.model,
        aligner=arguments.aligner,
        max_chunk_seconds=arguments.max_chunk_seconds,
        min_chunk_seconds=arguments.min_chunk_seconds,
    )


def request_of(arguments: argparse.Namespace) -> Request:
    """The recordings and options; raises UsageError."""
    if arguments.files.count(STANDARD_INPUT) > 1:
        raise UsageError("transcribe", "standard input (-) can be read only once")
    existing: Literal["refuse", "replace", "skip"] = (
        "replace" if arguments.force else "skip" if arguments.skip_existing else "refuse"
    )
    recordings = find_recordings(arguments.files, recursive=arguments.recursive)
    try:
        output, formats = chosen_output(
            arguments.output,
            chosen_formats(arguments.format, FORMATS),
            EXTENSIONS,
            existing,
            default="txt",
            is_one=len(recordings) == 1,
        )
    except OutputInvalid as error:
        raise UsageError("transcribe", str(error)) from None
    if not 2.0 <= arguments.max_chunk_seconds <= _LONGEST_CHUNK_SECONDS:
        raise UsageError(
            "transcribe",
            f"--max-chunk-seconds must be from 2 to {_LONGEST_CHUNK_SECONDS:g}, not {arguments.max_chunk_seconds:g}",
        )
    if not 0.0 <= arguments.min_chunk_seconds < arguments.max_chunk_seconds:
        raise UsageError(
            "transcribe",
            f"--min-chunk-seconds must be below --max-chunk-seconds, not {arguments.min_chunk_seconds:g}",
        )
    if arguments.words and formats == ("txt",):
        raise UsageError("transcribe", "--words has no place in plain text; add -f json")
    is_for_stdout = output.folder is None and output.file is None
    if is_for_stdout and formats[0] in RENDERERS and len(recordings) > 1:
        raise UsageError("transcribe", "subtitles of several recordings need a folder: add -o DIR")
    times_words = arguments.diarize or any(form in RENDERERS for form in formats)
    counts = (arguments.num_speakers, arguments.min_speakers, arguments.max_speakers)
    if not arguments.diarize and any(count is not None for count in counts):
        raise UsageError("transcribe", "a number of speakers is for --diarize; add it")
    try:
        if arguments.language is not None:
            resolve_language(arguments.language)
        options = TranscribeOptions(
            language=arguments.language,
            prompt=arguments.prompt,
            temperature=arguments.temperature,
            seed=arguments.seed,
            words=arguments.words or times_words,
            words_optional=not arguments.words and times_words,
            speakers=SpeakerOptions(*counts) if arguments.diarize else None,
            logprobs="json" in formats,
            chunking=Chunking("voice" if arguments.vad else "pauses", threshold=arguments.vad_threshold),
        )
    except EngineError as error:
        raise UsageError("transcribe", str(error)) from None
    return Request(
        recordings=tuple(recordings),
        formats=formats,
        output=output,
        options=options,
        shows_tracebacks=arguments.traceback,
    )


TRANSCRIBE_HELP = """\
Turn recordings into text: wav, flac, mp3, m4a, ogg, opus, webm, aac, or the sound of a video.

The text goes to stdout while it is decoded, a paragraph ending at a long pause; with several files, each under a line
`==> name <==`. With -f json there is one JSON document a line for each file, in the form of the API's verbose_json.
Subtitles are srt, vtt, tsv (Whisper's columns, milliseconds) or lrc. With -o each result is a file of its own, and its
path goes to stdout; results that are there are left unless --force is given, an input always. Several formats are
files in this folder unless -o names another. With --diarize the text has a line for each turn of a speaker, and JSON
and subtitles name the speakers. A file that fails is one line on stderr and exit code 1 at the end; the others are
still done. Ctrl-C keeps what is there, in NAME.partial.txt and so on."""

TRANSCRIBE_EXAMPLES = """\
examples:
  scribewire transcribe talk.mp3
  scribewire transcribe --model demo engine/demo/recordings/*.wav
  scribewire transcribe -f json interview.m4a | jq -r '.segments[].text'
  scribewire transcribe -f json --words talk.mp3 | jq '.words[]'
  scribewire transcribe -o film.srt film.mkv
  scribewire transcribe --diarize --num-speakers 2 interview.m4a
  scribewire transcribe -f srt,vtt -o subtitles --language es *.ogg
  scribewire transcribe --recursive --skip-existing -o texts recordings
  scribewire transcribe --prompt "Kubernetes, etcd, Anneliese Kohlrausch" standup.webm
  curl -s https://example.org/news.mp3 | scribewire transcribe -"""
