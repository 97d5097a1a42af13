"""The proxy on the way to a server: none to this machine, none to what NO_PROXY covers in any of its forms."""

from __future__ import annotations

import os

import pytest

from scribewire.server.client.connection import ServerConnection, server_url
from scribewire.server.client.failures import BadCommand, NoServer
from scribewire.server.client.proxy import proxy_for
from tests.fakes.receiver import Receiver

PROXY = "http://proxy.example:3128"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with one proxy for http, and no other."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", PROXY)
    return monkeypatch


def test_server_elsewhere_is_reached_through_the_proxy_of_its_scheme(environment: pytest.MonkeyPatch) -> None:
    assert proxy_for("http://nas.example:8765") == PROXY
    assert proxy_for("https://nas.example") is None
    environment.setenv("all_proxy", "proxy.example:1080")
    assert proxy_for("https://nas.example") == "http://proxy.example:1080"


@pytest.mark.parametrize("proxy", ["ftp://x", "http://a:b", "http://a..b", f"http://{'a' * 80}"])
def test_proxy_that_cannot_be_used_is_one_line(environment: pytest.MonkeyPatch, proxy: str) -> None:
    environment.setenv("http_proxy", proxy)
    with pytest.raises(BadCommand, match="the proxy of the environment cannot be used: "):
        ServerConnection("http://nas.example", None)


@pytest.mark.parametrize(
    "given", ["http://[", "[::1", "a:b", "a..b", "http://xn--a", "a" * 80, "h:99999", "ftp://x", ""]
)
def test_address_that_cannot_be_read_is_one_line(given: str) -> None:
    with pytest.raises(BadCommand, match="is no server's address"):
        server_url(given)


@pytest.mark.parametrize("url", ["http://localhost:8765", "http://127.0.0.1:8765", "http://[::1]:8765"])
def test_this_machine_is_reached_through_no_proxy(url: str) -> None:
    assert proxy_for(url) is None


@pytest.mark.parametrize(
    ("entry", "covered", "not_covered"),
    [
        ("192.168.0.0/16", "http://192.168.7.9:8765", "http://192.169.7.9:8765"),
        ("10.1.2.3", "http://10.1.2.3", "http://10.1.2.4"),
        ("fd00::/8", "http://[fd00::7]", "http://[fe80::7]"),
        ("[fd00::7]", "http://[fd00::7]", "http://[fd00::8]"),
        ("Example.org", "http://example.org", "http://anexample.org"),
        ("example.org", "http://nas.example.org", "http://example.org.invalid"),
        (".example.org", "http://nas.example.org", "http://example.org"),
        ("*.example.org", "http://nas.example.org", "http://example.org"),
        ("example.org:8765", "http://example.org:8765", "http://example.org:80"),
        ("http://example.org", "http://example.org", "http://example.net"),
        ("a.example, nas.example", "http://nas.example", "http://b.example"),
    ],
)
def test_what_no_proxy_covers_is_reached_directly_and_nothing_else(
    environment: pytest.MonkeyPatch, entry: str, covered: str, not_covered: str
) -> None:
    environment.setenv("no_proxy", entry)
    assert proxy_for(covered) is None
    assert proxy_for(not_covered) == PROXY


def test_asterisk_covers_everything(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("no_proxy", "*")
    assert proxy_for("http://nas.example") is None


@pytest.mark.parametrize("entry", ["", "[bad", "10.1.2.3/33", "example.org:none", "https://10.1.2.3"])
def test_entry_that_names_nothing_here_covers_nothing(environment: pytest.MonkeyPatch, entry: str) -> None:
    environment.setenv("no_proxy", entry)
    assert proxy_for("http://10.1.2.3") == PROXY


def test_connection_goes_through_the_proxy_that_was_found(environment: pytest.MonkeyPatch) -> None:
    job_id = f"job_{'0' * 32}"
    with Receiver() as proxy:
        environment.setenv("http_proxy", proxy.url)
        with (
            ServerConnection("http://nas.example:8765", None) as server,
            pytest.raises(NoServer, match="no scribewire"),
        ):
            server.cancel(job_id)
    assert [one.path for one in proxy.received] == [f"http://nas.example:8765/jobs/{job_id}/cancel"]
