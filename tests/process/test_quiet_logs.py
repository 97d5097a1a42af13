"""Everything that a server says, on both streams and in both formats, searched for what it must never say."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from scribewire.server.access.keys import KeyStore
from scribewire.server.webhooks.signing import WebhookSecret
from tests.fakes.receiver import Receiver
from tests.fakes.running_server import script
from tests.fakes.waiting import PATIENCE_SECONDS, wait_until
from tests.process.test_serve import served

pytestmark = pytest.mark.process

SPOKEN, PROMPT, KEYWORD, FILE_NAME = "SPOKENsecret", "PROMPTsecret", "KEYWORDsecret", "FILEsecret.wav"
OPTION, IDEMPOTENCY, TOKEN, QUERY = "OPTIONsecret", "IDEMPOTENCYsecret", "TOKENsecret", "QUERYsecret"


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_secret_is_ever_said(tmp_path: Path, log_format: str):
    data = tmp_path / "data"
    _, key = KeyStore(data).create("ann")
    _, other_key = KeyStore(tmp_path / "other").create("bob")
    with Receiver(lambda number: (500, {}) if number == 0 else (204, {})) as receiver:
        callback = f"{receiver.url}/?token={TOKEN}"
        settings = {"log_level": "debug", "log_format": log_format, "allow_callback": [receiver.url]}
        with served(data, **settings) as running:
            running.until_ready()
            client = httpx.Client(
                base_url=running.address, headers={"authorization": f"Bearer {key}"}, timeout=PATIENCE_SECONDS
            )

            def post(path: str, recording: bytes, **fields: str) -> httpx.Response:
                return client.post(
                    path,
                    files={"file": (FILE_NAME, recording, "audio/wav")},
                    data={"prompt": PROMPT, "keywords[]": KEYWORD, **fields},
                    headers={"idempotency-key": IDEMPOTENCY + str(len(recording))},
                )

            speech = script(text=SPOKEN, partials=[SPOKEN], deltas=[SPOKEN], token_logprobs=[-1])
            transcriptions = "/v1/audio/transcriptions"
            assert SPOKEN in post(transcriptions, speech).text
            post(transcriptions, speech, stream="true")
            post(transcriptions, speech, language=OPTION)
            post(transcriptions, speech, response_format=OPTION, callback_url=callback)
            post(transcriptions, speech, model=OPTION)
            post(transcriptions, script(text=SPOKEN, fail="engine_fault", message=SPOKEN[:3]))
            post(transcriptions, script(text=SPOKEN, partials=[SPOKEN], exit=7))
            post("/transcribe", script(text=SPOKEN, partials=[SPOKEN], fail="audio_undecodable"))
            job = post("/transcribe", speech + b" ", callback_url=callback).json()["job_id"]
            post("/transcribe", speech, callback_url=f"https://{TOKEN}.example/")
            wait_until(lambda: client.get(f"/jobs/{job}").json()["callback"]["attempts"] == 1)
            client.get(f"/jobs/{job}/events")
            client.get(f"/jobs?cursor={QUERY}")
            client.get("/v1/models", headers={"authorization": f"Bearer {other_key}"})
            client.post(transcriptions, content=SPOKEN.encode(), headers={"content-type": "application/json"})
            client.delete(f"/jobs/{job}")
            client.close()
            running.process.send_signal(signal.SIGTERM)
            code, out, err = running.wait_ended()
    assert code == 0
    assert err.count("\n") > 20
    assert '"event": "webhook"' in err or " webhook outcome=" in err
    private = (SPOKEN, PROMPT, KEYWORD, FILE_NAME, OPTION, IDEMPOTENCY, TOKEN, QUERY)
    secrets = (key, other_key, WebhookSecret(data).text())
    for one in (*private, *secrets, *(secret[-16:] for secret in secrets)):
        assert one not in out + err, one
