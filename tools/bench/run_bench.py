"""`make bench`: the demo model on this machine's CPU, against the targets, as a table and as JSON.

Load and first transcript in fresh processes, clips after a warm-up in one, and what the server adds to the engine's
own time for an upload of one mebibyte, on a real server over loopback. Nothing fails because it is slow.
"""

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scribewire.engine.bench.process import IMPORT_FOLDER
from tools.bench.child import Child, child
from tools.bench.clips import speech, write_upload, write_wav
from tools.bench.measuring import machine, show, summary, write_result

MODEL = "demo"
LOADS, CLIP_RUNS, LONG_RUNS, UPLOADS = 5, 9, 5, 25
TEN_SECOND_TARGET, LOAD_TARGET, OVERHEAD_TARGET = 1.0, 1.5, 0.015
PEAK_TARGET_BYTES = 500e6

# 48 kHz stereo 16-bit: an upload of one mebibyte holds 5.46 s of speech.
UPLOAD_RATE_HZ, UPLOAD_CHANNELS = 48_000, 2
UPLOAD_SECONDS = (2**20 - 44) / (UPLOAD_RATE_HZ * UPLOAD_CHANNELS * 2)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL, help="a folder or an id instead of the demo model")
    parser.add_argument("--out", type=Path, help="folder of the JSON (default: tools/bench/results)")
    arguments = parser.parse_args()
    at_start = machine()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ten = write_wav(folder / "ten.wav", speech(10.0))
        thirty = write_wav(folder / "thirty.wav", speech(30.0))
        upload = write_upload(folder / "upload.wav", UPLOAD_SECONDS, UPLOAD_RATE_HZ, UPLOAD_CHANNELS)
        engine = measure_engine(arguments.model, ten, thirty)
        command = measure_command(arguments.model, ten)
        server = measure_server(arguments.model, upload, folder / "data")
    rows = [
        ("ready in a fresh process", engine["ready"]),
        ("of that, loading the model", engine["load"]),
        ("first transcript (10 s clip)", engine["first"]),
        ("10 s clip, warm", engine["ten_seconds"]),
        ("30 s clip, warm", engine["thirty_seconds"]),
        ("peak resident, after both clips", engine["peak"]),
        ("scribewire transcribe, cold, 10 s", command),
        ("server: answer to 1 MiB upload", server["answer"]),
        ("server: over the engine's time", server["overhead"]),
    ]
    show(rows)
    content = {
        "machine": at_start,
        "model": arguments.model if arguments.model == MODEL else "another",
        "engine": engine["about"],
        "upload": {"bytes": 2**20, "audio_seconds": round(UPLOAD_SECONDS, 3)},
        "results": dict(rows),
    }
    options = "" if arguments.model == MODEL else " --model MODEL"
    written = write_result(
        "foundation_cpu",
        f"python -m tools.bench.run_bench{options}",
        content,
        *([arguments.out] if arguments.out else []),
    )
    print(f"\nwritten to {written.name}")


def measure_engine(model: str, ten: Path, thirty: Path) -> dict[str, Any]:
    """Fresh processes for load and first transcript; the last of them goes on with warm runs."""
    settings = {"model": model, "device": "auto", "dtype": "auto"}
    command = [sys.executable, "-m", "tools.bench.engine_side", json.dumps(settings)]
    loads, firsts = [], []

    def transcribed(engine: Child, clip: Path) -> dict[str, Any]:
        return engine.ask(do="transcribe", path=str(clip))

    for _ in range(LOADS):
        with child("engine", command) as engine:
            loads.append(engine.started | {"ready_seconds": engine.ready_seconds})
            firsts.append(transcribed(engine, ten)["seconds"])
    with child("engine", command) as engine:
        transcribed(engine, ten)
        warm = [transcribed(engine, ten) for _ in range(CLIP_RUNS)]
        transcribed(engine, thirty)
        long = [transcribed(engine, thirty) for _ in range(LONG_RUNS)]
    about = {name: loads[0][name] for name in ("dtype", "device", "weight_bits")}
    about["ten_second_parts"] = {
        part: summary([one[part] for one in warm])["median"]
        for part in ("encode_seconds", "prefill_seconds", "generate_seconds", "output_tokens")
    }
    return {
        "about": about,
        "ready": summary([one["ready_seconds"] for one in loads], target=LOAD_TARGET),
        "load": summary([one["load_seconds"] for one in loads]),
        "first": summary(firsts),
        "ten_seconds": summary([one["seconds"] for one in warm], target=TEN_SECOND_TARGET),
        "thirty_seconds": summary([one["seconds"] for one in long]),
        "peak": summary([long[-1]["peak_resident_bytes"] / 1e6], target=PEAK_TARGET_BYTES / 1e6, unit="MB"),
    }


def measure_command(model: str, ten: Path) -> dict[str, Any]:
    """The whole command, from its start to its end."""
    values = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "scribewire", "transcribe", "--model", model, str(ten)],
            cwd=IMPORT_FOLDER,
            check=True,
            capture_output=True,
        )
        values.append(time.perf_counter() - started)
    return summary(values)


def measure_server(model: str, upload: Path, data: Path) -> dict[str, Any]:
    """Latency of a client, and the share of it outside the engine (by the log's own figure)."""
    body, content_type = _form(upload)
    answers: list[float] = []
    with _running_server(model, data) as (address, engine_seconds):
        for _ in range(3 + UPLOADS):
            connection = http.client.HTTPConnection(address, timeout=120)
            started = time.perf_counter()
            connection.request("POST", "/v1/audio/transcriptions", body, {"Content-Type": content_type})
            response = connection.getresponse()
            content = response.read()
            answers.append(time.perf_counter() - started)
            connection.close()
            if response.status != 200:
                raise RuntimeError(f"the server answered {response.status}: {content[:200]!r}")
            _wait_for(lambda: len(engine_seconds) == len(answers))
    pairs = list(zip(answers, engine_seconds, strict=True))[3:]
    return {
        "answer": summary([answer for answer, _ in pairs]),
        "overhead": summary([answer - engine for answer, engine in pairs], target=OVERHEAD_TARGET),
    }


@contextmanager
def _running_server(model: str, data: Path) -> Iterator[tuple[str, list[float]]]:
    """A server on a free port; yields its address and a list that the log's engine times are added to."""
    command = [
        sys.executable,
        "-m",
        "scribewire",
        "serve",
        "--model",
        model,
        "--port",
        "0",
        "--data",
        str(data),
        # The same upload again is to be decoded and transcribed again.
        "--retry-window-seconds",
        "0",
    ]
    engine_seconds: list[float] = []
    with subprocess.Popen(
        command, cwd=IMPORT_FOLDER, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        log = threading.Thread(target=_follow_log, args=(process, engine_seconds), daemon=True)
        log.start()
        try:
            ready = next((line for line in process.stdout if " ready on " in line), None)
            if ready is None:
                raise RuntimeError("the server did not start; run `scribewire serve --model demo` to see why")
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield urlsplit(ready.split(" ready on ")[1].strip()).netloc, engine_seconds
        finally:
            process.terminate()
            process.wait(60)


def _follow_log(process: "subprocess.Popen[str]", engine_seconds: list[float]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if '"engine_seconds"' in line:
            engine_seconds.append(json.loads(line)["engine_seconds"])


def _wait_for(claim: Any) -> None:
    deadline = time.monotonic() + 10
    while not claim():
        if time.monotonic() > deadline:
            raise RuntimeError("the server's log has no engine time for an answer")
        time.sleep(0.001)


def _form(upload: Path) -> tuple[bytes, str]:
    """A multipart body as any client makes it, and its content type."""
    boundary = "----scribewire-bench"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="upload.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    )
    body = head.encode() + upload.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


if __name__ == "__main__":
    main()
