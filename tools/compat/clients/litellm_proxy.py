"""LiteLLM's proxy between openai-python and the server: a process of its own, configured as its users do."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import openai
from checks import Checks, assert_srt, assert_verbose, assert_vtt, assert_words, raised

CHECKS = Checks()
PLAN = CHECKS.plan
ENGLISH, SPANISH = PLAN["recordings"]["english"], PLAN["recordings"]["spanish"]
MASTER_KEY = "sk-proxy"
START_SECONDS = 180


class Proxy:
    """`litellm --config` on a free port of the loopback address."""

    def __init__(self, folder: Path) -> None:
        def model(name: str, upstream: str, key: str = PLAN["key"]) -> dict[str, Any]:
            parameters = {"model": f"openai/{upstream}", "api_base": PLAN["base_url"], "api_key": key}
            return {
                "model_name": name,
                "litellm_params": parameters,
                "model_info": {"mode": "audio_transcription"},
            }

        models = [
            model("whisper", "whisper-1"),
            model("gpt-4o-transcribe", "gpt-4o-transcribe"),
            model("locked", "whisper-1", key="wrong"),
            model("unknown", "no-such-model"),
        ]
        config = folder / "config.yaml"
        settings = {"general_settings": {"master_key": MASTER_KEY}, "router_settings": {"num_retries": 0}}
        config.write_text(json.dumps({"model_list": models, **settings}), encoding="utf-8")  # JSON is YAML
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        command = [Path(sys.executable).with_name("litellm"), "--config", config, "--host", "127.0.0.1"]
        self._log = (folder / "proxy.log").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [*map(str, command), "--port", self.url.rpartition(":")[2]],
            cwd=folder,
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_alive():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the proxy did not start: {Path(self._log.name).read_text()[-1500:]}")
            time.sleep(0.5)

    def _is_alive(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health/liveliness", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)
        self._log.close()

    def create(self, recording: dict[str, Any] = ENGLISH, **options: Any) -> Any:
        client = openai.OpenAI(api_key=MASTER_KEY, base_url=f"{self.url}/v1", max_retries=0)
        options = {"model": "whisper", **options}
        return client.audio.transcriptions.create(file=Path(recording["path"]), **options)


def version_is_the_pinned_one() -> None:
    assert importlib.metadata.version("litellm") == PLAN["version"]


def text_of(answer: str) -> str:
    """The proxy puts plain texts of its upstream into JSON, whatever the format."""
    return json.loads(answer)["text"]


def refused(proxy: Proxy, kind: type[openai.APIStatusError], **options: Any) -> None:
    raised(kind, lambda: proxy.create(**options))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        proxy = Proxy(Path(folder))
        try:
            add_checks(proxy)
            CHECKS.run()
        finally:
            proxy.stop()


def add_checks(proxy: Proxy) -> None:
    def verbose_json() -> None:
        body = json.loads(proxy.create(SPANISH, response_format="verbose_json").model_dump_json())
        assert_verbose({**body, "usage": body.get("usage") or {}}, SPANISH)

    def options() -> None:
        asked = {"language": "es", "prompt": "Un viaje.", "temperature": 0.0}
        assert_words(proxy.create(SPANISH, model="gpt-4o-transcribe", **asked).text, SPANISH)

    CHECKS.add("version", version_is_the_pinned_one)
    CHECKS.add("json", lambda: assert_words(proxy.create().text, ENGLISH))
    CHECKS.add("verbose_json", verbose_json)
    CHECKS.add("text", lambda: assert_words(text_of(proxy.create(response_format="text")), ENGLISH))
    CHECKS.add("srt", lambda: assert_srt(text_of(proxy.create(response_format="srt")), ENGLISH))
    CHECKS.add("vtt", lambda: assert_vtt(text_of(proxy.create(response_format="vtt")), ENGLISH))
    CHECKS.add("another model, language, prompt, temperature", options)
    CHECKS.add("AuthenticationError", lambda: refused(proxy, openai.AuthenticationError, model="locked"))
    CHECKS.add("NotFoundError", lambda: refused(proxy, openai.NotFoundError, model="unknown"))
    CHECKS.add("BadRequestError", lambda: refused(proxy, openai.BadRequestError, language="Klingon"))


main()
