"""One attempt to deliver a webhook over real sockets: its address, its time limit, what counts as delivered."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scribewire.server.jobs.delivery import AttemptResult, Delivery
from scribewire.server.webhooks.sender import WebhookSender
from scribewire.server.webhooks.signing import WebhookSecret
from scribewire.server.webhooks.targets import AllowedTargets
from tests.fakes.receiver import Receiver
from tests.fakes.waiting import PATIENCE_SECONDS, run


def attempt(
    folder: Path,
    url: str,
    *allowed: str,
    addresses: list[str] | None = None,
    attempt_seconds: float = 15.0,
) -> AttemptResult:
    async def resolve(host: str, port: int) -> list[str]:
        if addresses is None:
            return [host.strip("[]")]
        if not addresses:
            raise socket.gaierror(-2, "unknown")
        return addresses

    async def story() -> AttemptResult:
        sender = WebhookSender(
            AllowedTargets(allowed), WebhookSecret(folder), resolve=resolve, attempt_seconds=attempt_seconds
        )
        try:
            return await sender.attempt(Delivery("job_1", "ann", "msg_1", url, "{}", 1))
        finally:
            await sender.close()

    return run(story())


@pytest.mark.parametrize(
    ("answer", "error", "is_final", "pause"),
    [
        ((200, {}), None, False, 0),
        ((202, {}), None, False, 0),
        ((500, {}), "HTTP 500", False, 0),
        ((404, {}), "HTTP 404", False, 0),
        ((410, {}), "HTTP 410", True, 0),
        ((429, {"retry-after": "120"}), "HTTP 429", False, 120),
        ((503, {"retry-after": "999999"}), "HTTP 503", False, 3600),
        ((503, {"retry-after": "soon"}), "HTTP 503", False, 0),
        ((301, {"location": "/elsewhere"}), "HTTP 301; redirects are not followed", False, 0),
    ],
)
def test_only_a_status_of_success_counts(
    tmp_path: Path, answer: tuple[int, dict[str, str]], error: str | None, is_final: bool, pause: float
):
    with Receiver(lambda _: answer) as receiver:
        result = attempt(tmp_path, receiver.url, receiver.url)
    assert result == AttemptResult(error, is_final, pause, answer[0])
    assert len(receiver.received) == 1


def test_name_that_was_pointed_at_this_machine_is_not_called(tmp_path: Path):
    with Receiver() as receiver:
        url = f"http://hooks.example.org:{receiver.port}/"
        result = attempt(tmp_path, url, f"hooks.example.org:{receiver.port}", addresses=["127.0.0.1"])
        assert "an address of this machine" in str(result.error)
        assert not result.is_final, "the name may lead elsewhere tomorrow"
    assert receiver.received == []


def test_connection_goes_to_the_address_that_was_checked_and_to_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    looked_up: list[str] = []
    asked = socket.getaddrinfo

    def look_up(host: str | bytes, *more: object, **details: object) -> object:
        looked_up.append(host.decode() if isinstance(host, bytes) else host)
        return asked(host, *more, **details)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with Receiver() as receiver:
        url = f"http://localhost:{receiver.port}/x"
        # The first of its addresses is away from this machine, and passed over.
        found = ["192.0.2.1", "127.0.0.1"]
        result = attempt(tmp_path, url, f"localhost:{receiver.port}", addresses=found)
        assert result.error is None
        assert receiver.received[0].headers["host"] == f"localhost:{receiver.port}"
    assert "localhost" not in looked_up, "the name was looked up a second time"


def test_target_that_is_no_longer_allowed_is_given_up(tmp_path: Path):
    with Receiver() as receiver:
        result = attempt(tmp_path, receiver.url, "elsewhere.example")
        assert (result.is_final, receiver.received) == (True, [])
        assert "--allow-callback" in str(result.error)


def test_what_does_not_answer_is_tried_again(tmp_path: Path):
    with Receiver() as receiver:
        gone = receiver.url
    assert "no connection" in str(attempt(tmp_path, gone, gone).error)
    unknown = attempt(tmp_path, "http://nowhere.example/", "nowhere.example", addresses=[])
    assert (unknown.error, unknown.is_final) == ("the host's name is not known", False)
    with Receiver() as receiver:
        receiver.hold.clear()
        slow = attempt(tmp_path, receiver.url, receiver.url, attempt_seconds=0.3)
        assert (slow.error, slow.is_final) == ("no answer within 0.3 s", False)


def test_answer_is_not_read(tmp_path: Path):
    def endless(listener: socket.socket) -> Callable[[], None]:
        def serve() -> None:
            listener.settimeout(PATIENCE_SECONDS)
            connection, _ = listener.accept()
            connection.settimeout(PATIENCE_SECONDS)
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\nx")
                connection.recv(1)

        return serve

    async def story() -> AttemptResult:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            serving = asyncio.create_task(asyncio.to_thread(endless(listener)))
            sender = WebhookSender(AllowedTargets([url]), WebhookSecret(tmp_path))
            result = await sender.attempt(Delivery("job_1", "ann", "msg_1", url, "{}", 1))
            await sender.close()
            await serving
            return result

    assert run(story()).error is None


@pytest.mark.skipif(
    sys.platform == "darwin", reason="the Keychain decides there, and a test adds nothing to it"
)
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_certificate_is_checked_by_the_machines_store_and_against_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        key,
        "-out",
        certificate,
    ]
    command += ["-subj", "/CN=own authority", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_SECONDS)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with Receiver(tls=tls) as receiver:
        url = f"https://localhost:{receiver.port}/"
        stranger = attempt(tmp_path, url, f"localhost:{receiver.port}", addresses=["127.0.0.1"])
        assert "certificate verify failed" in str(stranger.error)
        assert not stranger.is_final, "a certificate may be replaced tomorrow"

        paths = ssl.get_default_verify_paths()._replace(openssl_cafile=certificate)
        monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
        # The connection goes to an address; the certificate holds for the name alone.
        trusted = attempt(tmp_path, url, f"localhost:{receiver.port}", addresses=["127.0.0.1"])
        assert (trusted.error, len(receiver.received)) == (None, 1)
        other = url.replace("localhost", "127.0.0.1")
        assert "certificate" in str(attempt(tmp_path, other, other).error)
    assert len(receiver.received) == 1
