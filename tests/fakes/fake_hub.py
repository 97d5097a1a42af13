"""A Hugging Face hub on loopback: enough of its API to download a model, with breakdowns on cue.

It speaks what huggingface_hub asks for (model info, file tree, resolve with HEAD and GET, redirects of large files to
a second address, ranges) and keeps a record of every request.
"""

import hashlib
import http.server
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from tests.fakes.waiting import join

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    byte_range: str | None
    authorization: str | None


@dataclass
class FakeHub:
    """Contents and behaviour of the fake hub.

    repositories: id -> file name -> content.
    break_after: sizes after which the next downloads of large files break off, one entry each.
    stall_after: size after which a download of a large file stops, its connection left open.
    refused: status code for every request about an id.
    is_down: connections are closed unheard.
    """

    repositories: dict[str, dict[str, bytes]]
    break_after: list[int] = field(default_factory=list)
    stall_after: int | None = None
    refused: dict[str, int] = field(default_factory=dict)
    ignores_ranges: bool = False
    damages_downloads: bool = False
    is_down: bool = False
    address: str = ""
    large_files_address: str = ""
    requests: list[Request] = field(default_factory=list)
    has_stalled: threading.Event = field(default_factory=threading.Event)
    is_over: threading.Event = field(default_factory=threading.Event)

    def downloads_of(self, name: str) -> list[Request]:
        """The GET requests that carried (part of) one file."""
        return [one for one in self.requests if one.method == "GET" and one.path.endswith("/" + name)]

    @contextmanager
    def serving(self) -> Iterator["FakeHub"]:
        """Serve on a free loopback port until the block ends."""
        hub = self

        class Handler(_HubHandler):
            fake = hub

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            self.address = f"http://127.0.0.1:{server.server_port}"
            # Another name of this machine, as the hub keeps large files on another host.
            self.large_files_address = f"http://localhost:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield self
            finally:
                self.is_over.set()
                server.shutdown()
                join(thread)


class _HubHandler(http.server.BaseHTTPRequestHandler):
    fake: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: the record is in `requests`."""

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.fake.requests.append(
            Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
        )
        if self.fake.is_down:
            self.close_connection = True
            return
        for model_id, status in self.fake.refused.items():
            if model_id in path:
                self._send_json({"error": "refused"}, status=status)
                return
        for model_id, files in self.fake.repositories.items():
            if path.startswith(f"/api/models/{model_id}/tree/"):
                self._send_json([_tree_entry(name, content) for name, content in files.items()])
                return
            if path in (f"/api/models/{model_id}", f"/api/models/{model_id}/revision/main"):
                siblings = [{"rfilename": name} for name in files]
                self._send_json({"id": model_id, "modelId": model_id, "sha": COMMIT, "siblings": siblings})
                return
            for name, content in files.items():
                if path in {f"/{model_id}/resolve/{revision}/{name}" for revision in ("main", COMMIT)}:
                    self._send_file(name, content, with_body=with_body)
                    return
                if path == f"/large/{model_id}/{name}":
                    self._send_large(content)
                    return
        self._send_json({"error": "not found"}, status=404, code="RepoNotFound")

    def _send_json(self, value: object, *, status: int = 200, code: str | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_file(self, name: str, content: bytes, *, with_body: bool) -> None:
        is_large = name.endswith(".safetensors")
        self.send_response(302 if is_large else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        if is_large:
            self.send_header("X-Linked-Etag", f'"{etag_of(name, content)}"')
            self.send_header("X-Linked-Size", str(len(content)))
            model_id = "/".join(self.path.split("/")[1:3])
            self.send_header("Location", f"{self.fake.large_files_address}/large/{model_id}/{name}")
            self.send_header("Content-Length", "0")
        else:
            self.send_header("ETag", f'"{etag_of(name, content)}"')
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body and not is_large:
            self.wfile.write(content)

    def _send_large(self, content: bytes) -> None:
        asked = self.headers.get("Range")
        start = 0
        if asked and not self.fake.ignores_ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.fake.damages_downloads:
            body = bytes(len(body))
        if self.fake.stall_after is not None:
            self.wfile.write(body[: self.fake.stall_after])
            self.wfile.flush()
            self.fake.has_stalled.set()
            self.fake.is_over.wait(60)
            self.close_connection = True
        elif self.fake.break_after:
            self.wfile.write(body[: self.fake.break_after.pop(0)])
            self.wfile.flush()
            # The rest never comes: the connection is closed in mid-file.
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self.wfile.write(body)


def etag_of(name: str, content: bytes) -> str:
    """The hub's hash of a file: SHA-256 of large ones, git's blob hash of small ones."""
    if name.endswith(".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _tree_entry(name: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(content)}
    entry["oid"] = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    if name.endswith(".safetensors"):
        entry["lfs"] = {"oid": etag_of(name, content), "size": len(content), "pointerSize": 100}
    return entry


def safetensors_bytes(data: bytes = b"\1\2\3\4" * 50_000) -> bytes:
    """A well-formed safetensors file with one tensor."""
    count = len(data) // 4
    header = json.dumps({"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    return struct.pack("<Q", len(header)) + header + data[: 4 * count]


def model_files() -> dict[str, bytes]:
    """The files of a small repository: a whole model, and files that must not be fetched."""
    return {
        ".gitattributes": b"*.safetensors filter=lfs\n",
        "README.md": b"# A model\n",
        "config.json": json.dumps({"model_type": "qwen3_asr", "thinker_config": {}}).encode(),
        "merges.txt": b"#version: 0.2\n",
        "model.safetensors": safetensors_bytes(),
        "onnx/model.safetensors": safetensors_bytes(b"\5\6\7\0" * 10),
        "pytorch_model.bin": b"\x80\x04 a pickle",
        "tokenizer_config.json": b'{"added_tokens_decoder": {}}',
        "added_tokens.json": b"{}",
        "vocab.json": b"{}",
    }
