"""The webhooks' secret and signature: private, made once, and as the standard has it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from scribewire.server.cli import main
from scribewire.server.webhooks.signing import SecretUnreadable, WebhookSecret, signature

PROJECT = Path(__file__).resolve().parent.parent.parent
BODY = b'{"test": 2432232314}'
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def documented() -> Callable[[str, dict[str, str], bytes], bool]:
    """The check that docs/webhooks.md gives to receivers."""
    text = (PROJECT / "docs" / "webhooks.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)
    is_genuine: Callable[[str, dict[str, str], bytes], bool] = names["is_genuine"]
    return is_genuine


def test_signature_is_the_one_of_the_standards_own_example():
    made = signature(STANDARD_SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, BODY)
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path):
    secret = WebhookSecret(tmp_path / "data")
    with ThreadPoolExecutor(8) as threads:
        seen = set(threads.map(lambda _: WebhookSecret(tmp_path / "data").text(), range(16)))
    assert seen == {secret.text()}
    path = tmp_path / "data" / "webhook-secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["webhook-secret"]
    renewed = secret.renew()
    assert renewed == secret.text() != seen.pop()
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("damaged")
    with pytest.raises(SecretUnreadable, match="--renew"):
        secret.text()


def test_documented_check_takes_what_is_genuine_and_nothing_else(tmp_path: Path):
    is_genuine, secret = documented(), WebhookSecret(tmp_path)
    now = int(time.time())
    headers = secret.headers("msg_1", now, BODY)
    assert is_genuine(secret.text(), headers, BODY)
    assert not is_genuine(secret.text(), headers, BODY + b" ")
    assert not is_genuine(secret.text(), {**headers, "webhook-id": "msg_2"}, BODY)
    assert not is_genuine(STANDARD_SECRET, headers, BODY)
    assert not is_genuine(secret.text(), secret.headers("msg_1", now - 400, BODY), BODY)
    two = f"v1a,x v1,AAAA {headers['webhook-signature']}"
    assert is_genuine(secret.text(), {**headers, "webhook-signature": two}, BODY)


def test_command_prints_the_secret_that_the_server_signs_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["webhook-secret", "--data", str(tmp_path)]
    assert main(arguments, environ={}) == 0
    shown = capsys.readouterr().out.strip()
    assert shown == WebhookSecret(tmp_path).text()
    assert main([*arguments, "--renew"], environ={}) == 0
    assert capsys.readouterr().out.strip() == WebhookSecret(tmp_path).text() != shown
