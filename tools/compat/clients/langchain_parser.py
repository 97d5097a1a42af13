"""LangChain's OpenAIWhisperParser: it exports the recording to MP3 with ffmpeg and uploads that.

The parser swallows errors after three attempts, so every check reads the documents that it returned.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import imageio_ffmpeg
from checks import Checks, assert_srt, assert_words
from langchain_community.document_loaders.parsers.audio import OpenAIWhisperParser
from langchain_core.documents.base import Blob

CHECKS = Checks()
PLAN = CHECKS.plan
ENGLISH, SPANISH = PLAN["recordings"]["english"], PLAN["recordings"]["spanish"]


def parsed(blob: Blob, **options: Any) -> list[Any]:
    """The documents of one recording; the parser's own prints go to standard error."""
    parser = OpenAIWhisperParser(api_key=PLAN["key"], base_url=PLAN["base_url"], **options)
    with contextlib.redirect_stdout(sys.stderr):
        return parser.parse(blob)


def by_path(recording: dict[str, Any], **options: Any) -> str:
    """The text of a recording on disk."""
    (document,) = parsed(Blob.from_path(recording["path"]), **options)
    assert document.metadata == {"source": recording["path"], "chunk": 0}, document.metadata
    text: str = document.page_content
    return text


def version_is_the_pinned_one() -> None:
    assert importlib.metadata.version("langchain-community") == PLAN["version"]


def both_languages() -> None:
    for recording in (ENGLISH, SPANISH):
        assert_words(by_path(recording), recording)


def options_pass_through() -> None:
    said = by_path(SPANISH, language="es", prompt="Un viaje en tren.", temperature=0.0)
    assert_words(said, SPANISH)


CHECKS.add("version", version_is_the_pinned_one)
CHECKS.add("recording on disk, exported to MP3", both_languages)
CHECKS.add("language, prompt, temperature", options_pass_through)
CHECKS.add("verbose_json", lambda: assert_words(by_path(ENGLISH, response_format="verbose_json"), ENGLISH))
CHECKS.add("text", lambda: assert_words(by_path(ENGLISH, response_format="text"), ENGLISH))
CHECKS.add("srt", lambda: assert_srt(by_path(ENGLISH, response_format="srt"), ENGLISH))

# pydub looks for a program called ffmpeg on the PATH; the wheel's own has another name.
with tempfile.TemporaryDirectory() as folder:
    os.symlink(imageio_ffmpeg.get_ffmpeg_exe(), Path(folder, "ffmpeg"))
    os.environ["PATH"] = os.pathsep.join([folder, os.environ["PATH"]])
    CHECKS.run()
