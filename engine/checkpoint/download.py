"""Downloads that go on where an earlier one stopped, into the cache that Hugging Face's tools share.

huggingface_hub throws half a file away when a download fails. So the files' bytes are fetched here, under the names
that the cache gives them, and huggingface_hub then links them as it would have. Every file is checked against the
hub's own hash. Only safetensors, JSON and text files are fetched, never a pickle.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but exported lazily
    build_hf_headers,
    hf_raise_for_status,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # as above
    # The client library that the hub's session uses: broken connections raise its errors, which
    # are not those of the httpx that our own code uses.
    httpx as hub_http,
)
from tqdm import tqdm

from scribewire.engine.checkpoint.hub import HubAccess, Progress
from scribewire.engine.checkpoint.integrity import check_model_folder
from scribewire.engine.checkpoint.published import nearest_published_ids
from scribewire.engine.protocol.errors import DownloadFailed, EngineError, ModelIncomplete, ModelNotFound

_WANTED_SUFFIXES = (".safetensors", ".json", ".txt")
INCOMPLETE_SUFFIX = ".incomplete"
_READ_BYTES = 1 << 20
_SECONDS_BETWEEN_LOG_LINES = 5.0
_ANSWERS_WORTH_A_RETRY = (408, 425, 429, 500, 502, 503, 504)


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _RemoteFile:
    """One file of a repository. etag: SHA-256 of a large file, git's SHA-1 of a small one; names its blob."""

    name: str
    url: str
    etag: str
    size_bytes: int


class _NoBar(tqdm):  # type: ignore[misc]  # tqdm carries no types
    """Keeps huggingface_hub's own bars off the terminal."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options | {"disable": True})


class _LoggedProgress:
    """Progress for callers without a bar, such as the engine worker: a line in the log every few seconds."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._said_at = -math.inf

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        now = time.monotonic()
        if now - self._said_at >= _SECONDS_BETWEEN_LOG_LINES:
            self._said_at = now
            log.info(
                "downloading %s: %.0f of %.0f MB (%.0f %%)",
                self._model,
                done_bytes / 1e6,
                total_bytes / 1e6,
                100 * done_bytes / max(1, total_bytes),
            )


def download(model: str, *, progress: Progress | None, hub: HubAccess) -> Path:
    """Fetch the newest revision of a repository, as far as it is not here yet.

    progress: None writes lines to the log instead.

    returns: the snapshot folder, checked
    raises:  ModelNotFound (no such repository, no access), ModelIncomplete (not a usable model),
             DownloadFailed (network, disk, damaged bytes); what has arrived is kept
    """
    try:
        return _download(model, progress or _LoggedProgress(model), hub)
    except EngineError:
        raise
    except (hub_http.HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError, OSError) as error:
        raise _explained(error, model, hub) from error


def _download(model: str, progress: Progress, hub: HubAccess) -> Path:
    files = _remote_files(model, hub)
    blobs = hub.repository_folder(model) / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    contents = list({file.etag: file for file in files}.values())  # equal files are one blob
    total_bytes = sum(file.size_bytes for file in contents)
    missing = [file for file in contents if not _has_blob(blobs, file)]
    done_bytes = total_bytes - sum(file.size_bytes - _bytes_on_disk(blobs, file) for file in missing)
    _check_disk_space(model, total_bytes - done_bytes, blobs)

    def report(more_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += more_bytes
        progress(done_bytes, total_bytes)

    report(0)
    for file in missing:
        _fetch_blob(file, blobs, report, hub, model)
    # The blobs are there under their final names: this links them into a snapshot and transfers no file.
    folder = huggingface_hub.snapshot_download(
        model,
        cache_dir=hub.cache,
        endpoint=hub.endpoint,
        allow_patterns=[file.name for file in files],
        etag_timeout=hub.timeout_seconds,
        library_name="scribewire",
        tqdm_class=_NoBar,
    )
    check_model_folder(Path(folder), remedy=f"see what {hub.address}/{model} holds")
    return Path(folder)


def _remote_files(model: str, hub: HubAccess) -> list[_RemoteFile]:
    api = huggingface_hub.HfApi(endpoint=hub.endpoint, library_name="scribewire")
    info = api.model_info(model, timeout=hub.timeout_seconds)
    names = [file.rfilename for file in info.siblings or ()]
    # Only the top folder: what lies deeper is another format's copy.
    wanted = sorted(name for name in names if "/" not in name and name.endswith(_WANTED_SUFFIXES))
    if "config.json" not in wanted or not any(name.endswith(".safetensors") for name in wanted):
        raise ModelIncomplete(
            f"{hub.address}/{model} is not a model that scribewire can load: it has no config.json with "
            "safetensors (pickles are never opened); `scribewire models` lists the published ones"
        )
    files = []
    for name in wanted:
        url = huggingface_hub.hf_hub_url(model, name, revision=info.sha, endpoint=hub.endpoint)
        about = huggingface_hub.get_hf_file_metadata(url, timeout=hub.timeout_seconds, endpoint=hub.endpoint)
        if about.etag is None or about.size is None or not re.fullmatch(r"[\w.-]+", about.etag):
            raise DownloadFailed(f"{hub.host} gives no size or hash of {name}; check HF_ENDPOINT")
        files.append(_RemoteFile(name, url, about.etag, about.size))
    return files


def _has_blob(blobs: Path, file: _RemoteFile) -> bool:
    """True when the file is complete; one that another tool left cut off under its final name is continued."""
    blob = blobs / file.etag
    if not blob.exists():
        return False
    if blob.stat().st_size == file.size_bytes:
        return True
    if blob.is_symlink() or blob.stat().st_size > file.size_bytes:
        blob.unlink()
    else:
        blob.replace(blobs / (file.etag + INCOMPLETE_SUFFIX))
    return False


def _bytes_on_disk(blobs: Path, file: _RemoteFile) -> int:
    incomplete = blobs / (file.etag + INCOMPLETE_SUFFIX)
    return min(incomplete.stat().st_size, file.size_bytes) if incomplete.exists() else 0


def _check_disk_space(model: str, needed_bytes: int, folder: Path) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise DownloadFailed(
            f"{model} needs {needed_bytes / 1e9:.2f} GB more, but only {free_bytes / 1e9:.2f} GB are free in {folder}; "
            "make room or set HF_HOME to a larger disk"
        )


def _fetch_blob(
    file: _RemoteFile, blobs: Path, report: Callable[[int], None], hub: HubAccess, model: str
) -> None:
    """Bring one file to its full length under its incomplete name, check its hash, and give it its final name."""
    blob = blobs / file.etag
    incomplete = blobs / (file.etag + INCOMPLETE_SUFFIX)
    with incomplete.open("ab") as sink:
        try:
            fcntl.flock(sink, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadFailed(f"another process is fetching {model} right now; wait for it") from None
        if blob.exists():  # the other process has just finished it
            incomplete.unlink(missing_ok=True)
            report(file.size_bytes - sink.tell())
            return
        _continue_download(file, sink, report, hub, model)
        sink.flush()
        if not _is_hash_right(incomplete, file):
            incomplete.unlink()
            report(-file.size_bytes)
            raise DownloadFailed(f"{file.name} of {model} arrived damaged and was thrown away; pull again")
        incomplete.rename(blob)


def _continue_download(
    file: _RemoteFile, sink: BinaryIO, report: Callable[[int], None], hub: HubAccess, model: str
) -> None:
    have_bytes = sink.tell()
    if have_bytes > file.size_bytes:
        sink.truncate(0)
        have_bytes = 0
    failures = 0
    while have_bytes < file.size_bytes:
        cause = "the connection ended early"
        try:
            for start_bytes, part in _parts(file, have_bytes, hub):
                if start_bytes < have_bytes:  # the hub began anew instead of continuing
                    report(start_bytes - have_bytes)
                    sink.truncate(start_bytes)
                sink.write(part)
                have_bytes = start_bytes + len(part)
                failures = 0
                report(len(part))
        except hub_http.TransportError as error:
            cause = f"{type(error).__name__}: {_one_line(error)}"
        except HfHubHTTPError as error:
            if error.response.status_code not in _ANSWERS_WORTH_A_RETRY:
                raise
            cause = f"it answered {error.response.status_code}"
        if have_bytes < file.size_bytes:
            if failures >= len(hub.retry_waits_seconds):
                raise DownloadFailed(
                    f"{hub.host} broke off in {file.name} of {model} ({cause}); what arrived is kept: "
                    f"`scribewire pull {model}` goes on from there"
                )
            time.sleep(hub.retry_waits_seconds[failures])
            failures += 1


def _parts(file: _RemoteFile, have_bytes: int, hub: HubAccess) -> Iterator[tuple[int, bytes]]:
    """The file from `have_bytes` on, each part with the position where it belongs."""
    headers = build_hf_headers(library_name="scribewire") | {"Accept-Encoding": "identity"}
    if have_bytes:
        headers["Range"] = f"bytes={have_bytes}-"
    session = huggingface_hub.get_session()
    with session.stream(
        "GET", file.url, headers=headers, timeout=hub.timeout_seconds, follow_redirects=True
    ) as response:
        if response.is_error:
            response.read()
        hf_raise_for_status(response)
        position = have_bytes if response.status_code == 206 else 0
        for part in response.iter_bytes():
            if position + len(part) > file.size_bytes:
                raise DownloadFailed(f"{hub.host} sends more of {file.name} than it announced; pull again")
            yield position, part
            position += len(part)


def _is_hash_right(path: Path, file: _RemoteFile) -> bool:
    """Compare with the etag where that is a hash: SHA-256 of the bytes, or git's SHA-1 of a blob."""
    if re.fullmatch(r"[0-9a-f]{64}", file.etag):
        digest = hashlib.sha256()
    elif re.fullmatch(r"[0-9a-f]{40}", file.etag):
        # git names objects with SHA-1; nothing here rests on its strength.
        digest = hashlib.sha1(f"blob {file.size_bytes}\0".encode(), usedforsecurity=False)
    else:
        return path.stat().st_size == file.size_bytes
    with path.open("rb") as content:
        while part := content.read(_READ_BYTES):
            digest.update(part)
    return digest.hexdigest() == file.etag


# ---- errors --------------------------------------------------------------------------------------------------


def _explained(error: Exception, model: str, hub: HubAccess) -> EngineError:
    """One clear line for a failure of the hub, the network or the disk."""
    page = f"{hub.address}/{model}"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError) or status == 403:
        return ModelNotFound(
            f"{model} is not open to everyone: accept its terms at {page}, then log in with `hf auth login`"
        )
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        near = [one for one in nearest_published_ids(model) if one != model]
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return ModelNotFound(
            f"{hub.host} knows no model {model}, or it is private (log in with `hf auth login`){hint}"
        )
    if status is not None:
        return DownloadFailed(f"{hub.host} answered {status} for {model}; try again later")
    if isinstance(error, hub_http.HTTPError):
        return DownloadFailed(
            f"{hub.host} cannot be reached ({type(error).__name__}: {_one_line(error)}); check the network"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return DownloadFailed(f"the disk of {hub.cache} is full; make room and pull again")
    return DownloadFailed(f"{model} could not be fetched: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
