"""Access control by keys, Host and Origin, decided before a body byte is read.

Pure ASGI, because a framework's dependencies run only after the form was read. Where a key is required, it alone
decides. Where none is (loopback, no key ever made), web pages in a browser are the threat: only exact Host names are
answered, which prevents DNS rebinding, and a foreign Origin is refused. With a key or without, a browser shows answers
only to pages of its Origins that the operator allowed.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from scribewire.server.access.keys import KeyStore, is_loopback
from scribewire.server.http.errors import ApiError, bad_request, error_response
from scribewire.server.http.protocol import (
    MAX_HEADER_BYTES,
    OVER_CAPACITY,
    headers_too_large,
    too_many_connections,
)
from scribewire.server.settings.fields import Settings
from scribewire.server.settings.types import size_in_words

OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready"})
"""Answered without a key, to any Host, and also over the cap on connections."""

LOCAL_OWNER = "local"
"""The owner of everything submitted while no key is required."""

ANY_ORIGIN = "*"
READABLE_HEADERS = (
    "x-request-id", "retry-after", "retry-after-ms", "x-should-retry", "location", "x-scribewire-model",
    "x-scribewire-warning", "x-scribewire-retry", "x-scribewire-replayed",
)  # fmt: skip
"""Headers of answers that a page of an allowed Origin may read besides those that browsers always show."""

KEY_HEADERS = ("x-api-key", "api-key")
"""Headers that hold the key where there is no `Authorization: Bearer`."""

FORM_ALLOWANCE_BYTES = 4 << 20
"""Size allowed in a form or a JSON body besides its recording; a larger declared size is refused unread."""


class Gate:
    """ASGI middleware that answers 401, 403, 413, 431 and 503 by the headers alone.

    Sets `state.owner` and `state.key_id`.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, key_store: KeyStore) -> None:
        self._app = app
        self._settings = settings
        self._key_store = key_store
        self._is_loopback = is_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError("only HTTP is served")
        headers = Headers(scope=scope)
        try:
            self._check(scope, headers)
        except ApiError as refusal:
            scope["state"]["error_code"] = refusal.code
            await error_response(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        # Headers that came in one piece were never incomplete, so the protocol did not measure them.
        if _header_bytes(scope) > MAX_HEADER_BYTES:
            raise headers_too_large()
        if "content-length" in headers and "transfer-encoding" in headers:
            # Two lengths for one body: a proxy in front might use the other one (request smuggling).
            raise bad_request("bad_request", "Content-Length and Transfer-Encoding exclude each other.")
        if scope["path"] not in OPEN_PATHS:
            if scope["state"].get(OVER_CAPACITY):
                raise too_many_connections()
            if not self._is_loopback or self._key_store.is_key_required():
                self._check_key(scope, headers)
            else:
                self._check_host(scope, headers)
                self._check_origin(scope, headers)
                scope["state"]["owner"] = LOCAL_OWNER
        self._check_size(headers)

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        challenge = {"www-authenticate": "Bearer"}
        secret = _sent_key(headers)
        if not secret:
            raise ApiError(
                401,
                "invalid_api_key",
                "An API key is required: send `Authorization: Bearer <key>`. "
                "The server's operator makes one with `scribewire keys create NAME`.",
                headers=challenge,
            )
        key = self._key_store.authenticate(secret)
        if key is None:
            raise ApiError(
                401, "invalid_api_key", "This API key is not known here or was revoked.", headers=challenge
            )
        scope["state"]["owner"] = key.key_id
        scope["state"]["key_id"] = key.key_id

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "").lower()
        _check_readable("Host", f"//{host}")
        named = {host, scope["state"].get("authority", host)}
        if len(headers.getlist("host")) != 1 or not named <= self._hosts(scope):
            raise ApiError(
                403,
                "host_not_allowed",
                "This Host name is not answered while no API key is required. "
                "Use localhost or 127.0.0.1, or start the server with --allow-host NAME.",
            )

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        for origin in headers.getlist("origin"):
            if origin in self._settings.allow_origin or ANY_ORIGIN in self._settings.allow_origin:
                continue
            _check_readable("Origin", origin)
            scheme, _, host = origin.lower().partition("://")
            if scheme not in ("http", "https") or host not in self._hosts(scope):
                raise ApiError(
                    403,
                    "origin_not_allowed",
                    "Pages of this Origin may not call the server while no API key is required; "
                    "see --allow-origin.",
                )

    def _hosts(self, scope: Scope) -> set[str]:
        server = scope.get("server")
        port = server[1] if server else self._settings.port
        names = ["localhost", "127.0.0.1", "[::1]"]
        bound = self._settings.host.lower()
        names.append(f"[{bound}]" if ":" in bound else bound)
        allowed: set[str] = set()
        for name in names + [name.lower() for name in self._settings.allow_host]:
            allowed.add(f"{name}:{port}")
            # The port given, or the scheme's default port, which clients leave out.
            if name not in names or port == 80:
                allowed.add(name)
        return allowed

    def _check_size(self, headers: Headers) -> None:
        declared = headers.get("content-length", "")
        size_bytes = int(declared) if declared.isascii() and declared.isdigit() else 0
        if declares_json(headers) and size_bytes > self._settings.max_json_body_bytes:
            raise json_too_large(self._settings.max_json_body_bytes)
        if size_bytes > self._settings.max_upload_bytes + FORM_ALLOWANCE_BYTES and not declares_json(headers):
            raise upload_too_large(self._settings.max_upload_bytes)


class CrossOrigin(CORSMiddleware):
    """Headers by which a browser lets pages of `--allow-origin` read answers; a preflight is answered without a key.

    Keys travel in headers that a page sets itself, never as cookies, so that no credentials are allowed.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        super().__init__(
            app,
            allow_origins=settings.allow_origin,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=READABLE_HEADERS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a preflight; a refusal in the shape of every other one."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        refusal = error_response(
            ApiError(
                403, "origin_not_allowed", "Pages of this Origin may not do this here; see --allow-origin."
            )
        )
        refusal.headers["vary"] = "Origin"
        return refusal


def _check_readable(name: str, url: str) -> None:
    try:
        _ = urlsplit(url).port
    except ValueError:
        raise bad_request("bad_request", f"The {name} header cannot be read.") from None


def _sent_key(headers: Headers) -> str:
    """The key of a request, as OpenAI's clients send it, or else as Azure's and others do; empty without one."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    sent = (bearer if scheme.lower() == "bearer" else "", *(headers.get(one, "") for one in KEY_HEADERS))
    return next((one.strip() for one in sent if one.strip()), "")


def declares_json(headers: Headers) -> bool:
    """True when the Content-Type is JSON."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _header_bytes(scope: Scope) -> int:
    fields = sum(len(name) + len(value) for name, value in scope["headers"])
    return fields + len(scope["raw_path"]) + len(scope["query_string"])


def upload_too_large(limit_bytes: int) -> ApiError:
    """The 413 for a recording over the limit."""
    return ApiError(
        413,
        "upload_too_large",
        f"The recording is larger than the {size_in_words(limit_bytes)} accepted here (--max-upload-bytes).",
        param="file",
    )


def json_too_large(limit_bytes: int) -> ApiError:
    """The 413 for a JSON body over the limit."""
    return ApiError(
        413,
        "upload_too_large",
        f"The JSON body is larger than the {size_in_words(limit_bytes)} accepted here (--max-json-body-bytes); "
        "send a recording of this size as a multipart form, in the part `file`.",
    )
