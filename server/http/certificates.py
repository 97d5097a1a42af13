"""Certificates that this machine trusts, for connections to receivers of webhooks and to other servers.

httpx by default uses the list of a package (certifi), and would refuse certificates of an operator's own authority.
"""

from __future__ import annotations

import os
import ssl
import sys

import httpx
import truststore

_IS_MAC: bool = sys.platform == "darwin"  # a bool to mypy, which then checks both branches on every system


def machine_certificates(*, heeds_environment: bool) -> ssl.SSLContext:
    """TLS context that trusts the machine's store: the Keychain on macOS, OpenSSL's file and folder elsewhere.

    heeds_environment: SSL_CERT_FILE or SSL_CERT_DIR, where set, replaces the store.
    """
    if heeds_environment and (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
        return httpx.create_ssl_context()
    if _IS_MAC:
        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The paths compiled into OpenSSL. Its default paths would be those of the environment.
    paths = ssl.get_default_verify_paths()
    file = paths.openssl_cafile if os.path.isfile(paths.openssl_cafile) else None
    folder = paths.openssl_capath if os.path.isdir(paths.openssl_capath) else None
    if file is None and folder is None:
        return httpx.create_ssl_context(trust_env=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(file, folder)
    return context
