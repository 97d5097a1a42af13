"""Access: keys, Host and Origin, all checked before the body."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest

from scribewire.server.access.keys import KeyStore
from scribewire.server.app import create_app
from scribewire.server.engine.client import EngineClient
from scribewire.server.settings.fields import Settings
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.fakes.waiting import run, wait_until

SPEECH = script(text="Hello.")
REFUSED_PATHS = ["/v1/models", "/v1/audio/transcriptions", "/jobs/x", "/metrics", "/nope"]


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def test_no_key_is_asked_for_on_loopback_until_one_is_made(tmp_path: Path):
    with RunningServer(tmp_path) as running:
        assert running.transcribe(SPEECH).status_code == 200
        # As the CLI does it, in another process with a store of its own.
        key_id, secret = KeyStore(tmp_path).create("ann")
        wait_until(lambda: running.transcribe(SPEECH).status_code == 401, seconds=1.0)
        assert running.transcribe(SPEECH, headers=bearer(secret)).status_code == 200
        KeyStore(tmp_path).revoke(key_id)
        wait_until(lambda: running.transcribe(SPEECH, headers=bearer(secret)).status_code == 401, seconds=1.0)
        # Revoking the last key locks the server; it does not open it again.
        assert running.transcribe(SPEECH).status_code == 401


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory):
    data = tmp_path_factory.mktemp("locked")
    _, secret = KeyStore(data).create("ann")
    with RunningServer(data) as running:
        yield running, secret


@pytest.mark.parametrize("path", REFUSED_PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("sk-scribewire-wrong"),
        {"authorization": "Basic dXNlcjpwYXNz"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer \xff\xfe"},
        {"x-api-key": "sk-scribewire-wrong"},
        {"authorization": "Bearer sk-scribewire-wrong", "x-api-key": "SECRET"},
        {"x-key": "SECRET"},
        {"cookie": "key=SECRET"},
    ],
)
def test_every_path_but_liveness_asks_for_the_key(locked, path: str, headers: dict[str, str]):
    running, secret = locked
    sent = {name: value.replace("SECRET", secret).encode("latin-1") for name, value in headers.items()}
    response = running.client.get(path, headers=sent)
    assert_openai_error(response, 401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "SECRET"},
        {"Api-Key": "SECRET"},
        {"authorization": "Basic dXNlcjpwYXNz", "x-api-key": "SECRET"},
        {"authorization": "Bearer", "api-key": "SECRET"},
        {"authorization": "bearer SECRET", "api-key": "other"},
    ],
)
def test_key_is_read_from_the_headers_that_clients_use(locked, headers: dict[str, str]):
    running, secret = locked
    sent = {name: value.replace("SECRET", secret) for name, value in headers.items()}
    assert running.client.get("/v1/models", headers=sent).status_code == 200


def test_key_in_the_query_is_not_accepted(locked):
    running, secret = locked
    assert running.client.get("/v1/models", params={"api_key": secret}).status_code == 401


def test_liveness_is_open_and_bare(locked):
    running, _ = locked
    response = running.client.get("/health/live")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["x-request-id"]


def test_any_host_is_answered_where_a_key_is_asked_for(locked):
    running, secret = locked
    headers = {**bearer(secret), "host": "mini.local:1", "origin": "https://elsewhere.example"}
    assert running.client.get("/v1/models", headers=headers).status_code == 200


def test_large_body_is_refused_without_a_key_before_it_is_read(locked):
    running, _ = locked
    process = psutil.Process()
    before = process.memory_info().rss
    peak = before
    sent = 0
    status = b""
    piece = b"x" * (1 << 20)
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
        head = (
            f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n"
            "Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        connection.sendall(head.encode())
        # The answer is there before the first byte of the body.
        status = connection.recv(65536)
        try:
            while sent < 200 << 20:
                connection.sendall(b"%x\r\n" % len(piece) + piece + b"\r\n")
                sent += len(piece)
                peak = max(peak, process.memory_info().rss)
        except OSError:
            pass  # closed by the server, which discards no more than a bounded part
    assert status.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in status.lower()
    assert sent < 64 << 20
    assert peak - before < 32 << 20
    assert running.leftovers() == []


def test_client_that_reads_only_after_sending_gets_the_refusal(locked):
    running, _ = locked
    body = b"x" * (8 << 20)
    head = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n"
        f"Content-Length: {len(body)}\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"invalid_api_key" in answer


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:PORT", "localhost", "127.0.0.1:1", "localhost.:PORT", "127.1:PORT", ""],
)
def test_foreign_host_is_refused_where_no_key_is_asked_for(server: RunningServer, host: str):
    response = server.client.get("/v1/models", headers={"host": host.replace("PORT", str(server.port))})
    assert_openai_error(response, 403, "host_not_allowed")


@pytest.mark.parametrize(
    "header", ["Host: evil.example", "Host: 127.0.0.1:PORT\r\nOrigin: https://evil.example"]
)
def test_foreign_host_and_origin_are_refused_before_a_byte_of_the_body(server: RunningServer, header: str):
    head = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\n{header.replace('PORT', str(server.port))}\r\n"
        "Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 403 ")
    assert server.leftovers() == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_local_host_is_answered(server: RunningServer, host: str):
    assert server.client.get("/v1/models", headers={"host": f"{host}:{server.port}"}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost", "http://127.0.0.1:1", "file://"]
)
def test_foreign_origin_is_refused(server: RunningServer, origin: str):
    response = server.transcribe(SPEECH, headers={"origin": origin})
    assert_openai_error(response, 403, "origin_not_allowed")
    assert "access-control-allow-origin" not in response.headers


UNREADABLE = [
    *("http://[", "http://[::1", "http://]", "https://["),
    *(
        "http://localhost:x",
        "http://localhost:99999",
        "http://localhost:²",
        f"http://localhost:{'9' * 5000}",
        "//[",
    ),
]


@pytest.mark.parametrize("origin", UNREADABLE)
def test_origin_and_host_that_cannot_be_read_are_400(server: RunningServer, origin: str):
    headers = {"origin": origin.encode("latin-1")}
    assert_openai_error(server.client.get("/v1/models", headers=headers), 400, "bad_request")
    host = {"host": origin.partition("//")[2].encode("latin-1")}
    response = server.client.get("/v1/models", headers=host)
    assert response.status_code == 400


def test_own_origin_is_answered(server: RunningServer):
    headers = {"origin": f"http://localhost:{server.port}"}
    assert server.transcribe(SPEECH, headers=headers).status_code == 200


def test_allowed_hosts_and_origins_are_answered(tmp_path: Path):
    with RunningServer(
        tmp_path, allow_host=("Mini.local",), allow_origin=("https://page.example",)
    ) as running:
        for host in ("mini.local", f"mini.local:{running.port}"):
            assert running.client.get("/v1/models", headers={"host": host}).status_code == 200
        assert running.client.get("/v1/models", headers={"host": "mini.local:1"}).status_code == 403
        assert running.client.get("/v1/models", headers={"origin": "https://page.example"}).status_code == 200


def test_key_is_required_beyond_loopback_even_if_the_keys_vanish(tmp_path: Path):
    settings = Settings(data=tmp_path, host="0.0.0.0", model="fake")
    app = create_app(settings, EngineClient.from_settings(settings), KeyStore(tmp_path))
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http", "method": "GET", "path": "/v1/models", "raw_path": b"/v1/models", "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8765")], "server": ("127.0.0.1", 8765), "scheme": "http",
    }  # fmt: skip
    run(app(scope, receive, send))
    assert sent[0]["status"] == 401


def test_no_page_that_loads_scripts_from_other_hosts_is_served(server: RunningServer):
    for path in ("/docs", "/redoc"):
        assert_openai_error(server.client.get(path), 404, "not_found")


def test_description_is_behind_the_key(server: RunningServer, locked):
    assert server.client.get("/openapi.json").status_code == 200
    running, secret = locked
    assert_openai_error(running.client.get("/openapi.json"), 401, "invalid_api_key")
    assert running.client.get("/openapi.json", headers=bearer(secret)).status_code == 200


def test_keys_are_checked_again_within_a_second(tmp_path: Path):
    now = 100.0
    store = KeyStore(tmp_path, monotonic=lambda: now)
    _, secret = KeyStore(tmp_path).create("ann")
    assert store.authenticate(secret) is not None
    KeyStore(tmp_path).revoke(KeyStore(tmp_path).list()[0].key_id)
    now += 0.99
    assert store.authenticate(secret) is None
