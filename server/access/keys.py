"""API keys: made, listed, revoked and checked against a file under the data folder.

A key is 256 random bits and is shown once; the file holds its SHA-256 only. A slow hash would not help, because 256
bits cannot be found by trial. The file is replaced whole under a lock, so that the CLI and a running server never see
half of it, and a server reads a changed file within `RECHECK_SECONDS`.
Once a key was ever made a key is required, even when all are revoked: revoking the last one locks the server instead of
opening it. A file that cannot be read, or holds no key any more, locks it as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from scribewire.server.settings.fields import Settings

SECRET_PREFIX = "sk-scribewire-"
KEYS_FILE = "keys.json"
RECHECK_SECONDS = 0.25
MAX_NAME_CHARACTERS = 100

logger = logging.getLogger("scribewire.keys")


class KeysUnreadable(Exception):
    """The keys file exists but is damaged or cannot be opened."""


class KeyUnknown(Exception):
    """No key has this id or name, or several have the name."""


class UnsafeBind(Exception):
    """The server would listen beyond this machine with no key to protect it."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as stored; times are Unix seconds. The secret itself is not stored."""

    key_id: str
    name: str
    sha256: str
    created_at: int
    revoked_at: int | None = None

    @property
    def is_active(self) -> bool:
        """True when requests may use it."""
        return self.revoked_at is None


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """Content of the file at the last read; `is_locked` when there is, or was, a file."""

    keys: tuple[ApiKey, ...] = ()
    is_locked: bool = False


class KeyStore:
    """The keys under one data folder (keys file 0600; the folder is made 0700 when it does not exist)."""

    def __init__(self, data_folder: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder = data_folder
        self._path = data_folder / KEYS_FILE
        self._monotonic = monotonic
        self._checked_at: float | None = None
        self._signature: tuple[int, int, int] | None = None
        self._snapshot = _Snapshot()

    # ---- for the CLI -----------------------------------------------------------------------------------------

    def create(self, name: str) -> tuple[str, str]:
        """Make a key; returns (key id, secret); the secret is not stored. Raises KeysUnreadable, OSError."""
        secret = SECRET_PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(
            key_id="key_" + secrets.token_hex(6),
            name="".join(c if c.isprintable() else " " for c in name).strip()[:MAX_NAME_CHARACTERS],
            sha256=_digest(secret),
            created_at=int(time.time()),
        )
        with self._exclusive():
            self._write((*self._read(), key))
        return key.key_id, secret

    def list(self) -> tuple[ApiKey, ...]:
        """Every key ever made, oldest first. Raises KeysUnreadable."""
        return self._read()

    def revoke(self, name: str) -> ApiKey:
        """Revoke a key from now on; revoking it twice keeps the first time. Raises KeyUnknown, KeysUnreadable.

        name: its id, or its name, if only one active key has it.
        """
        with self._exclusive():
            keys = {key.key_id: key for key in self._read()}
            key_id = name if name in keys else _only_id(name, keys.values())
            if keys[key_id].is_active:
                keys[key_id] = replace(keys[key_id], revoked_at=int(time.time()))
                self._write(tuple(keys.values()))
            return keys[key_id]

    # ---- for the server --------------------------------------------------------------------------------------

    def is_key_required(self) -> bool:
        """True when a key was ever made, which a file shows that holds none or cannot be read."""
        return self._current().is_locked

    def authenticate(self, secret: str) -> ApiKey | None:
        """The active key with this secret, or None. Every key is compared, in constant time, matching or not."""
        digest = _digest(secret)
        found: ApiKey | None = None
        for key in self._current().keys:
            is_same = hmac.compare_digest(key.sha256, digest)
            if is_same and key.is_active:
                found = key
        return found

    def _current(self) -> _Snapshot:
        now = self._monotonic()
        if self._checked_at is not None and now - self._checked_at < RECHECK_SECONDS:
            return self._snapshot
        self._checked_at = now
        try:
            status = self._path.stat()
        except FileNotFoundError:
            # A file that is removed while the server runs must not open it.
            self._snapshot = replace(self._snapshot, keys=())
            self._signature = None
            return self._snapshot
        except OSError as error:
            logger.error("keys file cannot be read, every key is refused: %s", error.strerror)
            self._snapshot = _Snapshot(is_locked=True)
            self._signature = None
            return self._snapshot
        signature = (status.st_mtime_ns, status.st_size, status.st_ino)
        if signature != self._signature:
            try:
                # A file without a key was emptied: a key that was revoked stays in it.
                self._snapshot = _Snapshot(keys=self._read(), is_locked=True)
            except KeysUnreadable as error:
                logger.error("%s; every key is refused", error)
                self._snapshot = _Snapshot(is_locked=True)
            self._signature = signature
        return self._snapshot

    # ---- the file --------------------------------------------------------------------------------------------

    def _read(self) -> tuple[ApiKey, ...]:
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))["keys"]
            return tuple(_key_from_json(entry) for entry in entries)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise KeysUnreadable(f"{self._path} cannot be read: {error.strerror}; see --data") from None
        except (KeyError, TypeError, ValueError, RecursionError):
            raise KeysUnreadable(f"{self._path} is damaged; restore it or move it away") from None

    def _write(self, keys: tuple[ApiKey, ...]) -> None:
        text = json.dumps({"version": 1, "keys": [asdict(key) for key in keys]}, indent=1)
        write_private(self._path, text.encode())
        self._checked_at = None

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        make_private_folder(self._folder)
        descriptor = os.open(self._folder / f"{KEYS_FILE}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def make_private_folder(folder: Path) -> None:
    """Make a folder with mode 0700; one that already exists keeps its mode (it may serve other purposes)."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)


def write_private(path: Path, content: bytes, *, keeps_old: bool = False) -> None:
    """Write a file with mode 0600 that is there in full or not at all; raises OSError.

    keeps_old: leave a file that is there already, also one that another process makes at the same moment.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if keeps_old:
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        else:
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _only_id(name: str, keys: Iterable[ApiKey]) -> str:
    """The id of the one key with a name, of which revoked ones count only where no other has it."""
    named = [key for key in keys if name and key.name == name]
    found = [key.key_id for key in named if key.is_active] or [key.key_id for key in named][-1:]
    if not found:
        raise KeyUnknown(f"no key has the id or the name {name!r}; see `scribewire keys list`")
    if len(found) > 1:
        raise KeyUnknown(
            f"{len(found)} active keys have the name {name!r}; revoke one by its id: {', '.join(found)}"
        )
    return found[0]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key_from_json(entry: dict[str, object]) -> ApiKey:
    key_id, name, sha256 = entry["key_id"], entry["name"], entry["sha256"]
    created_at, revoked_at = entry["created_at"], entry["revoked_at"]
    if not (isinstance(key_id, str) and isinstance(name, str) and isinstance(sha256, str)):
        raise TypeError("texts expected")
    if len(sha256) != 64 or not sha256.isascii():
        raise ValueError("a SHA-256 expected")
    if not isinstance(created_at, int) or not (revoked_at is None or isinstance(revoked_at, int)):
        raise TypeError("times expected")
    return ApiKey(key_id, name, sha256, created_at, revoked_at)


def is_loopback(host: str) -> bool:
    """True when an address can be reached from this machine only; False for names other than localhost."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind_is_safe(settings: Settings, key_store: KeyStore) -> None:
    """Refuse to listen beyond this machine without an active key; raises UnsafeBind, KeysUnreadable."""
    keys = key_store.list()
    if not is_loopback(settings.host) and not any(key.is_active for key in keys):
        raise UnsafeBind(
            f"{settings.host} can be reached from other machines and no active API key exists; "
            "make one with `scribewire keys create NAME`, or listen on 127.0.0.1"
        )
