"""Who may talk to the server: keys, Host and Origin, decided before a body byte is read.

Pure ASGI, because a framework's dependencies run only after the form was read. Where a key is required, it alone
decides. Where none is (loopback, no key ever made), a page in a browser is the danger: only exact Host names are
answered, which defeats DNS rebinding, and a foreign Origin is refused.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import ApiError, bad_request, error_response
from server.keys import KeyStore, is_loopback
from server.settings import Settings

OPEN_PATHS = frozenset({"/health/live"})
LOCAL_OWNER = "local"
"""The owner of everything submitted while no key is asked for."""

FORM_ALLOWANCE_BYTES = 4 << 20
"""What a form may hold beside its recording; a declared size above both together is refused unread."""


class Gate:
    """ASGI middleware answering 401, 403 and 413 by the headers alone; sets `state.owner` and `state.key_id`."""

    def __init__(self, app: ASGIApp, *, settings: Settings, key_store: KeyStore) -> None:
        self._app = app
        self._settings = settings
        self._key_store = key_store
        self._is_loopback = is_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through or refuse it."""
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
        if "content-length" in headers and "transfer-encoding" in headers:
            # Two lengths for one body: a proxy in front might go by the other one (request smuggling).
            raise bad_request("bad_request", "Content-Length and Transfer-Encoding exclude each other.")
        if scope["path"] not in OPEN_PATHS:
            if not self._is_loopback or self._key_store.is_key_required():
                self._check_key(scope, headers)
            else:
                self._check_host(scope, headers)
                self._check_origin(scope, headers)
                scope["state"]["owner"] = LOCAL_OWNER
        self._check_size(headers)

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        challenge = {"www-authenticate": "Bearer"}
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise ApiError(
                401,
                "invalid_api_key",
                "An API key is required: send `Authorization: Bearer <key>`. "
                "The server's operator makes one with `scribewire keys create NAME`.",
                headers=challenge,
            )
        key = self._key_store.authenticate(secret.strip())
        if key is None:
            raise ApiError(
                401, "invalid_api_key", "This API key is not known here or was revoked.", headers=challenge
            )
        scope["state"]["owner"] = key.key_id
        scope["state"]["key_id"] = key.key_id

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "").lower()
        if len(headers.getlist("host")) != 1 or host not in self._hosts(scope):
            raise ApiError(
                403,
                "host_not_allowed",
                "This Host name is not answered while no API key is required. "
                "Use localhost or 127.0.0.1, or start the server with --allow-host NAME.",
            )

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        for origin in headers.getlist("origin"):
            if origin in self._settings.allow_origin:
                continue
            parts = urlsplit(origin.lower())
            if parts.scheme not in ("http", "https") or parts.netloc not in self._hosts(scope):
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
            # A port of its own, or the scheme's default port, which clients leave out.
            if name not in names or port == 80:
                allowed.add(name)
        return allowed

    def _check_size(self, headers: Headers) -> None:
        declared = headers.get("content-length", "")
        limit = self._settings.max_upload_bytes
        if declared.isdigit() and int(declared) > limit + FORM_ALLOWANCE_BYTES:
            raise upload_too_large(limit)


def upload_too_large(limit_bytes: int) -> ApiError:
    """The 413 for a recording over the limit."""
    return ApiError(
        413,
        "upload_too_large",
        f"The recording is larger than the {limit_bytes} bytes accepted here (--max-upload-bytes).",
        param="file",
    )
