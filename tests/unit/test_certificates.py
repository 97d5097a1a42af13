"""The certificates that outgoing connections trust: the machine's own, or those that the environment names."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path

import pytest

from scribewire.server.http.certificates import machine_certificates

OWN_AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBnDCCAUOgAwIBAgIUYNqsoNuiC62oVfPNVSvwhXE2rTgwCgYIKoZIzj0EAwIw
IzEhMB8GA1UEAwwYQW4gb3duZXIncyBvd24gYXV0aG9yaXR5MCAXDTI2MTEzMDEy
MDA0OVoYDzIxMjYxMTA2MTIwMDQ5WjAjMSEwHwYDVQQDDBhBbiBvd25lcidzIG93
biBhdXRob3JpdHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQQZ8bT4j6FftHy
an8qLgHyJhCCKLSDa6BYszypIS0LmsXRoEGxcM7jwIXbZtETJtg9trA/XC3KrBzB
gDdtk4UIo1MwUTAdBgNVHQ4EFgQUfuv6xd3+mqCln24NLNVIIYAAkHkwHwYDVR0j
BBgwFoAUfuv6xd3+mqCln24NLNVIIYAAkHkwDwYDVR0TAQH/BAUwAwEB/zAKBggq
hkjOPQQDAgNHADBEAiAIXGlXFewn9e/Sm4yXOUcxhAqdv77WOVB4Iizre4pCqwIg
an+JQqqx3yna+dCuz4or2uL/q/5/ctId7J7daV3QOm4=
-----END CERTIFICATE-----
"""


@pytest.fixture
def own_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file with one certificate that no list of public authorities holds; the environment names nothing."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    file = tmp_path / "own.pem"
    file.write_text(OWN_AUTHORITY, encoding="ascii")
    return str(file)


def names(context: ssl.SSLContext) -> list[str]:
    """The common names of all that a context trusts; every context must check certificates against names."""
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    parts = [dict(part) for one in context.get_ca_certs() for part in one["subject"]]
    return [part["commonName"] for part in parts if "commonName" in part]


def test_file_that_the_environment_names_is_trusted_alone_and_only_where_it_is_heeded(
    own_authority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", own_authority)
    assert names(machine_certificates(heeds_environment=True)) == ["An owner's own authority"]
    assert "An owner's own authority" not in names(machine_certificates(heeds_environment=False))


@pytest.mark.skipif(
    sys.platform == "darwin", reason="macOS has no file of certificates; its Keychain decides"
)
@pytest.mark.parametrize("heeds_environment", [True, False])
def test_authority_in_the_machines_store_is_trusted(
    own_authority: str, monkeypatch: pytest.MonkeyPatch, heeds_environment: bool
) -> None:
    built_in = ssl.get_default_verify_paths()
    paths = built_in._replace(openssl_cafile=own_authority, openssl_capath=f"{own_authority}.none")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    assert names(machine_certificates(heeds_environment=heeds_environment)) == ["An owner's own authority"]


@pytest.mark.skipif(
    sys.platform == "darwin", reason="macOS has no file of certificates; its Keychain decides"
)
def test_machine_without_a_store_trusts_public_authorities(
    own_authority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = f"{own_authority}.none"
    paths = ssl.get_default_verify_paths()._replace(openssl_cafile=missing, openssl_capath=missing)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    assert len(names(machine_certificates(heeds_environment=False))) > 50


@pytest.mark.mac
def test_keychain_decides_on_macos(own_authority: str) -> None:
    assert type(machine_certificates(heeds_environment=True)).__module__.startswith("truststore")
