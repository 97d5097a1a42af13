"""Allowed targets of webhooks: what an operator's entry covers, and which addresses are traps."""

from __future__ import annotations

import pytest

from scribewire.server.webhooks.targets import (
    AllowedTargets,
    TargetNotAllowed,
    allowed_targets,
    check_address,
)

NAMED = AllowedTargets(["hooks.example.org", "other.example.org:8443", "https://deep.example.org/hooks/a"])


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org/anything?at=all",
        "http://hooks.example.org",
        "https://HOOKS.example.org:443/",
        "https://hooks.example.org./",
        "https://other.example.org:8443/x",
        "https://deep.example.org/hooks/a",
        "https://deep.example.org/hooks/a/b",
        "https://deep.example.org/hooks/a//b;c=1/..b/%25/%C3%A9/100%25",
        "https://deep.example.org:443/hooks/a?b",
    ],
)
def test_what_an_entry_covers_is_allowed(url: str):
    assert NAMED.target(url).host.endswith("example.org")


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/",
        "https://evil-hooks.example.org/",
        "https://hooks.example.org.evil.net/",
        "https://hooks.example.org:8443/",
        "https://other.example.org/",
        "http://deep.example.org/hooks/a",
        "https://deep.example.org/hooks/ab",
        "https://deep.example.org//hooks/a",
        "https://deep.example.org/hooks//a",
        "https://deep.example.org/hooks/a;b",
        "https://deep.example.org/hooks/a%2fb",
        "https://deep.example.org/hooks%2fa",
        "https://deep.example.org:8443/hooks/a",
        "https://deep.example.org%2f.evil.net/hooks/a",
        "https://deep.example.org;.evil.net/hooks/a",
        "https://deep.example.org/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://2130706433/",
    ],
)
def test_what_no_entry_covers_is_not(url: str):
    with pytest.raises(TargetNotAllowed):
        NAMED.target(url)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://hooks.example.org/",
        "hooks.example.org/x",
        "https:///x",
        "https://me:secret@hooks.example.org/",
        "https://hooks.example.org@evil.net/",
        "https://hooks.example.org/a#b",
        "https://deep.example.org/hooks/a/../../admin",
        "https://deep.example.org/hooks/a/%2e%2e/%252e%252e/admin",
        *(
            f"https://deep.example.org/hooks/a/{climb}/admin"
            for climb in (
                "..;",
                "..;x=1",
                ".;",
                "%2e%2e;",
                "..%3b",
                "%2e%2e",
                "%2E.",
                "%252e%252e",
                "%25252e%25252e",
                "%2525252525252e.",
                "b%2f..",
                "b%5c..",
                "..%5cb",
                "%255c..%255c",
                "..%00",
                "..%20",
                ".%09.",
                "%c0%ae%c0%ae",
                "%u002e%u002e",
                "%25u002e.",
                "%ef%bc%8e%ef%bc%8e",
            )
        ),
        "https://hooks.example.org:0/",
        "https://hooks.example.org:443:80/",
        "https://hooks.example.org:443@evil.net/",
        "https://@hooks.example.org/",
        "https://:@hooks.example.org/",
        "https://[hooks.example.org/",
        "https://[::1/",
        "https://hooks.example.org\\@evil.net/",
        "https://hooks.example.org/ä",
        "https://hooks.example.org/a b",
        "https://hooks.example.org/\r\nhost: evil",
        "https://hooks.example.org:99999/",
        "https://hooks.example.org/" + "x" * 2000,
    ],
)
def test_what_is_no_plain_url_is_invalid(url: str):
    with pytest.raises(ValueError):
        NAMED.target(url)


def test_nothing_is_allowed_by_default():
    assert AllowedTargets([]).is_empty
    with pytest.raises(TargetNotAllowed):
        AllowedTargets([]).target("https://example.org/")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.10",
        "::1",
        "0.0.0.0",
        "::",
        "169.254.169.254",
        "fe80::1",
        "fe80::1%eth0",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
def test_name_that_leads_to_a_trap_is_refused_wherever_it_is_allowed(address: str):
    target = NAMED.target("https://hooks.example.org/")
    with pytest.raises(TargetNotAllowed):
        check_address(address, target)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800::1", "192.168.1.20", "10.0.0.7", "fd12::5"])
def test_name_may_lead_to_the_world_and_to_the_local_network(address: str):
    assert check_address(address, NAMED.target("https://hooks.example.org/")) == address


def test_address_that_the_operator_named_is_no_trap():
    named = AllowedTargets(["http://127.0.0.1:9000/", "localhost:9001", "http://[::1]:9002"])
    assert check_address("127.0.0.1", named.target("http://127.0.0.1:9000/x")) == "127.0.0.1"
    assert check_address("::1", named.target("http://localhost:9001/")) == "::1"
    assert named.target("http://[::1]:9002/").authority == "[::1]:9002"
    with pytest.raises(TargetNotAllowed):
        check_address("169.254.169.254", named.target("http://localhost:9001/"))
    with pytest.raises(TargetNotAllowed):
        named.target("http://127.0.0.1:9003/")


def test_setting_takes_lists_and_refuses_what_is_no_target():
    assert allowed_targets("a.example, https://b.example/x/") == ("a.example", "https://b.example/x/")
    for wrong in ("a.example/path", "https://", "https://u:p@a.example/", "ftp://a.example/"):
        with pytest.raises(ValueError, match="must"):
            allowed_targets([wrong])
