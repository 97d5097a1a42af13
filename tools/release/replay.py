"""Follow Dockerfile.dev step by step in a temporary folder, on a machine where no Docker engine runs.

Reads the Dockerfile itself, so the two cannot drift apart; an instruction that this script does not know is refused.
Replayed: COPY under .dockerignore, ENV, WORKDIR, VOLUME, every RUN but those that change the system, and CMD, which
is started twice and asked to transcribe with and without its key. Not replayed: the base image, apt-get, the user.
The server listens on loopback here, whatever the Dockerfile says. It does not show that the image builds.
"""

import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
DOCKERFILE = PROJECT / "Dockerfile.dev"
KNOWN = {"FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "VOLUME", "EXPOSE", "CMD"}
CHANGES_THE_SYSTEM = re.compile(r"^(apt-get|useradd)\b")
KEY = re.compile(r"\bsk-scribewire-[A-Za-z0-9_-]{20,}")
READY_LINE = "scribewire: ready on "
START_LIMIT_SECONDS = 60.0
NOT_INHERITED = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON", "PYTHONPATH", "VIRTUAL_ENV")


class ReplayFailed(Exception):
    """A step of the Dockerfile does not do what it should."""


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, its continued lines joined."""

    keyword: str
    arguments: str


def parse_dockerfile(text: str) -> list[Instruction]:
    """Instructions in order; raises ReplayFailed at one that cannot be replayed."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    found = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        keyword, _, arguments = line.partition(" ")
        if keyword not in KNOWN:
            raise ReplayFailed(f"{keyword} is no instruction that this script knows: {line}")
        found.append(Instruction(keyword, arguments.strip()))
    return found


@dataclass
class Replay:
    """A folder that stands for the container's root, and what the instructions so far made of it."""

    root: Path
    skipped_commands: tuple[str, ...] = ()
    directory: Path = field(init=False)
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Begin at the root with this machine's environment, less what belongs to a surrounding make or venv."""
        self.directory = self.root
        self.environment = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}

    def inside(self, path: str) -> Path:
        """A path of the container as a path below this replay's root."""
        return self.root / path.lstrip("/") if path.startswith("/") else self.directory / path

    def follow(self, instruction: Instruction) -> None:
        """Carry one instruction out; CMD is left to `served`."""
        match instruction.keyword:
            case "WORKDIR":
                self.directory = self.inside(instruction.arguments)
                self.directory.mkdir(parents=True, exist_ok=True)
            case "VOLUME":
                self.inside(instruction.arguments).mkdir(parents=True, exist_ok=True)
            case "COPY":
                self.copy(instruction.arguments)
            case "ENV":
                for assignment in shlex.split(instruction.arguments):
                    name, _, value = assignment.partition("=")
                    self.environment[name] = str(self.inside(value)) if value.startswith("/") else value
            case "RUN":
                self.run(instruction.arguments)
            case "FROM" | "USER" | "EXPOSE":
                report("not replayed", f"{instruction.keyword} {instruction.arguments}")

    def copy(self, arguments: str) -> None:
        """COPY of files of this repository, less what .dockerignore names."""
        *sources, target = [word for word in arguments.split() if not word.startswith("--")]
        ignored = ignore_patterns((PROJECT / ".dockerignore").read_text(encoding="utf-8"))
        for source in sources:
            for path in sorted((PROJECT / source).rglob("*")):
                relative = path.relative_to(PROJECT).as_posix()
                # As a container engine does: links are copied as links, the package's to its folders among them.
                if (path.is_file() or path.is_symlink()) and not is_ignored(relative, ignored):
                    copied = self.inside(target) / path.relative_to(PROJECT / source)
                    copied.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, copied, follow_symlinks=False)

    def run(self, command: str) -> None:
        """RUN, unless it changes the system or was asked to be left out."""
        if CHANGES_THE_SYSTEM.match(command) or command in self.skipped_commands:
            report("not replayed", f"RUN {command}")
            return
        report("RUN", command)
        started = time.monotonic()
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode != 0:
            raise ReplayFailed(f"RUN {command}: exit status {done.returncode}")
        report("done", f"RUN {command} in {time.monotonic() - started:.0f} s")

    @contextmanager
    def served(self, command: list[str]) -> Iterator[tuple[str, list[str]]]:
        """Start CMD on a free loopback port; yields its address and the lines it prints, once it is ready."""
        port = free_port()
        environment = {**self.environment, "SCRIBEWIRE_HOST": "127.0.0.1", "SCRIBEWIRE_PORT": str(port)}
        process = subprocess.Popen(
            [str(self.inside(command[0])), *command[1:]],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines: list[str] = []
        assert process.stdout is not None
        reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            wait_until_ready(process, lines)
            yield f"http://127.0.0.1:{port}", lines
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise ReplayFailed("the server did not stop within 30 s of SIGTERM") from None
            finally:
                reader.join(timeout=5)


def ignore_patterns(text: str) -> list[str]:
    """The patterns of a .dockerignore; exceptions (`!`) are refused, for none is needed."""
    patterns = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if any(pattern.startswith("!") for pattern in patterns):
        raise ReplayFailed(".dockerignore has an exception, which this script does not know")
    return patterns


def is_ignored(relative: str, patterns: list[str]) -> bool:
    """True when a pattern names this file or a folder above it; `**/` stands for any depth."""
    parts = relative.split("/")
    paths = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    for pattern in patterns:
        anywhere = pattern.startswith("**/")
        candidates = parts if anywhere else paths
        if any(fnmatch.fnmatchcase(one, pattern.removeprefix("**/")) for one in candidates):
            return True
    return False


def free_port() -> int:
    """A TCP port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(process: subprocess.Popen[str], lines: list[str]) -> None:
    """Return when the server says that it is ready (/health/ready would need the key, which a second start hides).

    raises: ReplayFailed when the process ends or takes too long.
    """
    deadline = time.monotonic() + START_LIMIT_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ReplayFailed(f"CMD ended with exit status {process.returncode}:\n{''.join(lines)}")
        if any(line.startswith(READY_LINE) for line in lines):
            return
        time.sleep(0.2)
    raise ReplayFailed(f"CMD was not ready within {START_LIMIT_SECONDS:.0f} s:\n{''.join(lines)}")


def transcribe(address: str, recording: Path, key: str | None) -> tuple[int, str]:
    """Post one recording the way the OpenAI API wants it; returns the status and the body."""
    boundary = uuid.uuid4().hex
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{recording.name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode() + recording.read_bytes()
    request = urllib.request.Request(
        f"{address}/v1/audio/transcriptions",
        data=body + f"\r\n--{boundary}--\r\n".encode(),
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def try_server(replay: Replay, command: list[str]) -> None:
    """Start CMD twice: the first start makes a key, the second makes none and still knows it."""
    recording = min((replay.directory / "engine/demo/recordings").glob("*.wav"))
    with replay.served(command) as (address, lines):
        keys = KEY.findall("".join(lines))
        if len(set(keys)) != 1:
            raise ReplayFailed(f"the first start should print one key, and printed {len(set(keys))}")
        refused = transcribe(address, recording, None)
        if refused[0] != 401:
            raise ReplayFailed(f"without a key the answer was {refused}, not 401")
        status, body = transcribe(address, recording, keys[0])
        if status != 200 or not json.loads(body)["text"].strip():
            raise ReplayFailed(f"with the key the answer was {status}: {body}")
        report("CMD", f"401 without the key; with it: {json.loads(body)['text']}")
    with replay.served(command) as (address, lines):
        if KEY.search("".join(lines)):
            raise ReplayFailed("the second start printed a key")
        status, body = transcribe(address, recording, keys[0])
        if status != 200:
            raise ReplayFailed(f"the second start does not know the key: {status} {body}")
        report("CMD", "a second start prints no key and still knows the first")


def report(word: str, text: str) -> None:
    """One line about one step."""
    print(f"[{word}] {text}", flush=True)


def main() -> int:
    """Replay the whole Dockerfile; exit 1 at the first step that fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--without-tests", action="store_true", help="leave RUN make test out (CI runs it before)"
    )
    options = parser.parse_args()
    skipped = ("make test",) if options.without_tests else ()
    with tempfile.TemporaryDirectory(prefix="scribewire-image-") as folder:
        replay = Replay(Path(folder), skipped)
        try:
            instructions = parse_dockerfile(DOCKERFILE.read_text(encoding="utf-8"))
            for instruction in instructions:
                replay.follow(instruction)
            commands = [json.loads(one.arguments) for one in instructions if one.keyword == "CMD"]
            if len(commands) != 1:
                raise ReplayFailed(f"the Dockerfile has {len(commands)} CMD instructions")
            try_server(replay, commands[0])
        except ReplayFailed as error:
            print(f"replay failed: {error}", file=sys.stderr)
            return 1
    report("done", "every step that can be replayed went through; the image itself was not built")
    return 0


if __name__ == "__main__":
    sys.exit(main())
