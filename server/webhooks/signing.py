"""The secret of this server and the signatures made with it, in the form of Standard Webhooks.

    webhook-id          the same for every attempt for one end of a job
    webhook-timestamp   Unix seconds of this attempt
    webhook-signature   v1,BASE64 of HMAC-SHA256 over `id.timestamp.body`

The secret is `whsec_` and base64 of 32 random bytes, in its own file that only this user can read; it is made when it
is first needed. Source: the specification of Standard Webhooks, version 1.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import secrets
from pathlib import Path

from scribewire.server.access.keys import make_private_folder, write_private

SECRET_FILE = "webhook-secret"
SECRET_PREFIX = "whsec_"
SECRET_BYTES = 32


class SecretUnreadable(Exception):
    """The secret's file is damaged or cannot be opened; the message is one line."""


class WebhookSecret:
    """The secret below one data folder."""

    def __init__(self, data_folder: Path) -> None:
        self._folder = data_folder
        self._path = data_folder / SECRET_FILE

    def text(self) -> str:
        """The secret in the form that receivers use, made now if there is none. raises: SecretUnreadable, OSError"""
        with contextlib.suppress(FileNotFoundError):
            return self._read()
        self._write(keeps_old=True)
        return self._read()

    def renew(self) -> str:
        """Make a new secret, used from the next attempt on. raises: OSError"""
        self._write(keeps_old=False)
        return self._read()

    def headers(self, delivery_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """The headers that a receiver checks; raises SecretUnreadable, OSError."""
        return {
            "webhook-id": delivery_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self.text(), delivery_id, timestamp, body),
        }

    def _read(self) -> str:
        text = self._path.read_text(encoding="ascii", errors="replace").strip()
        try:
            key_of(text)
        except ValueError:
            raise SecretUnreadable(
                f"{self._path} holds no secret; move it away, or make another with `scribewire webhook-secret --renew`"
            ) from None
        return text

    def _write(self, *, keeps_old: bool) -> None:
        make_private_folder(self._folder)
        secret = SECRET_PREFIX.encode() + base64.b64encode(secrets.token_bytes(SECRET_BYTES)) + b"\n"
        write_private(self._path, secret, keeps_old=keeps_old)


def key_of(secret: str) -> bytes:
    """The bytes of a secret; raises ValueError."""
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError("no secret")
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("no base64") from None
    if len(key) < 24:
        raise ValueError("too short")
    return key


def signature(secret: str, delivery_id: str, timestamp: int, body: bytes) -> str:
    """Value of the header `webhook-signature`."""
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key_of(secret), signed, hashlib.sha256)).decode()
