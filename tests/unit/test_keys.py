"""API keys: what is stored, what is refused, and what another process changes."""

from __future__ import annotations

import hashlib
import hmac
import json
import stat
import threading
from pathlib import Path

import pytest

from scribewire.server.access.keys import (
    RECHECK_SECONDS,
    SECRET_PREFIX,
    KeyStore,
    KeysUnreadable,
    KeyUnknown,
    UnsafeBind,
    check_bind_is_safe,
    is_loopback,
)
from scribewire.server.settings.fields import Settings
from tests.fakes.waiting import join


def test_secret_is_256_bits_and_is_nowhere_on_disk(tmp_path: Path):
    key_id, secret = KeyStore(tmp_path).create("ann")
    assert secret.startswith(SECRET_PREFIX)
    assert len(secret) == len(SECRET_PREFIX) + 43  # 32 bytes in URL-safe base 64
    for path in tmp_path.iterdir():
        assert secret not in path.read_text()
    (stored,) = json.loads((tmp_path / "keys.json").read_text())["keys"]
    assert stored["sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    assert stored["key_id"] == key_id


def test_keys_file_is_readable_by_its_owner_only(tmp_path: Path):
    data = tmp_path / "a" / "data"
    KeyStore(data).create("ann")
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    for path in data.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_folder_that_was_there_keeps_its_mode(tmp_path: Path):
    tmp_path.chmod(0o755)
    KeyStore(tmp_path).create("ann")
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


def test_keys_are_listed_with_their_names_and_revoked_by_id(tmp_path: Path):
    store = KeyStore(tmp_path)
    (ann, _), (bob, secret) = store.create("ann"), store.create("b\nob\x1b" + "x" * 300)
    assert [key.key_id for key in store.list()] == [ann, bob]
    assert store.list()[0].name == "ann"
    assert store.list()[1].name.isprintable()
    assert len(store.list()[1].name) == 100
    first = store.revoke(ann)
    assert first.revoked_at is not None
    assert store.revoke(ann) == first
    assert [key.is_active for key in store.list()] == [False, True]
    assert store.authenticate(secret) is not None
    with pytest.raises(KeyUnknown):
        store.revoke("key_nope")


def test_only_active_keys_authenticate(tmp_path: Path):
    store = KeyStore(tmp_path)
    key_id, secret = store.create("ann")
    assert store.authenticate(secret).key_id == key_id
    for wrong in ("", secret[:-1], secret + "x", secret.upper(), store.list()[0].sha256, "\udcff", "ключ"):
        assert store.authenticate(wrong) is None
    store.revoke(key_id)
    assert store.authenticate(secret) is None


def test_every_key_is_compared_whichever_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = KeyStore(tmp_path)
    secrets = [store.create(str(n))[1] for n in range(5)]
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(a) or compare(a, b))
    assert store.authenticate(secrets[0]) is not None
    assert len(compared) == 5


def test_a_key_is_required_once_one_was_made_even_when_all_are_revoked(tmp_path: Path):
    store = KeyStore(tmp_path)
    assert not store.is_key_required()
    key_id, secret = store.create("ann")
    assert store.is_key_required()
    store.revoke(key_id)
    assert store.is_key_required()
    assert store.authenticate(secret) is None


def test_changes_of_another_process_are_seen_at_the_next_look(tmp_path: Path):
    now = 0.0
    server = KeyStore(tmp_path, monotonic=lambda: now)
    assert not server.is_key_required()
    _, secret = KeyStore(tmp_path).create("ann")
    assert server.authenticate(secret) is None
    now += RECHECK_SECONDS
    assert server.authenticate(secret) is not None


def test_file_is_not_looked_at_more_often_than_needed(tmp_path: Path):
    now = 0.0
    server = KeyStore(tmp_path, monotonic=lambda: now)
    assert not server.is_key_required()
    KeyStore(tmp_path).create("ann")
    now += RECHECK_SECONDS - 0.01
    assert not server.is_key_required()


def test_keys_that_vanish_under_a_running_server_lock_it(tmp_path: Path):
    now = 0.0
    server = KeyStore(tmp_path, monotonic=lambda: now)
    _, secret = server.create("ann")
    assert server.authenticate(secret) is not None
    (tmp_path / "keys.json").unlink()
    now += 1
    assert server.authenticate(secret) is None
    assert server.is_key_required()


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", "[" * 5000, '{"keys": 3}', '{"keys": [{"key_id": "x"}]}', "\x00", '{"keys": [3]}'],
)
def test_damaged_file_locks_the_server_and_is_not_overwritten(tmp_path: Path, damage: str):
    now = 0.0
    server = KeyStore(tmp_path, monotonic=lambda: now)
    _, secret = server.create("ann")
    (tmp_path / "keys.json").write_text(damage)
    now += 1
    assert server.authenticate(secret) is None
    assert server.is_key_required()
    for write in (lambda: server.create("bob"), lambda: server.revoke("x"), server.list):
        with pytest.raises(KeysUnreadable, match="damaged"):
            write()
    assert (tmp_path / "keys.json").read_text() == damage


def test_file_that_was_emptied_locks_a_server_also_one_that_starts_and_takes_a_new_key(tmp_path: Path):
    now = 0.0
    server = KeyStore(tmp_path, monotonic=lambda: now)
    _, secret = server.create("ann")
    assert server.authenticate(secret) is not None
    (tmp_path / "keys.json").write_text('{"version": 1, "keys": []}')
    now += 1
    assert server.authenticate(secret) is None
    assert server.is_key_required()
    assert KeyStore(tmp_path).is_key_required()
    _, new = KeyStore(tmp_path).create("bob")
    now += 1
    assert server.authenticate(new) is not None


def test_keys_made_at_once_are_all_kept(tmp_path: Path):
    threads = [threading.Thread(target=KeyStore(tmp_path).create, args=(str(n),)) for n in range(16)]
    for thread in threads:
        thread.start()
    join(*threads)
    assert len({key.key_id for key in KeyStore(tmp_path).list()}) == 16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.json", "keys.json.lock"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_key(tmp_path: Path, host: str):
    assert is_loopback(host)
    check_bind_is_safe(Settings(host=host, data=tmp_path), KeyStore(tmp_path))


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.4", "mini.local", "fe80::1", "", "127.0.0.1.example"]
)
def test_any_other_address_needs_an_active_key(tmp_path: Path, host: str):
    settings, store = Settings(host=host, data=tmp_path), KeyStore(tmp_path)
    with pytest.raises(UnsafeBind, match="scribewire keys create"):
        check_bind_is_safe(settings, store)
    key_id, _ = store.create("ann")
    check_bind_is_safe(settings, store)
    store.revoke(key_id)
    with pytest.raises(UnsafeBind) as refused:
        check_bind_is_safe(settings, store)
    assert "\n" not in str(refused.value)
