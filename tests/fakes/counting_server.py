"""A server that only counts: how many requests are under way at once, how many there were, in which order."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATIENCE_SECONDS = 30.0


class CountingServer:
    """Answers every recording with its name; holds those called `long` until released, and counts what it saw."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.now = self.most = self.answered = 0
        self.keys: set[str | None] = set()
        self.wanted_at_once = 1
        self.status = 200
        self.order: list[str] = []
        self.long_may_end = threading.Event()

    def handle(self, body: bytes, key: str | None) -> tuple[int, bytes]:
        name = body.split(b'filename="')[1].split(b'"')[0].decode()
        with self.lock:
            self.keys.add(key)
            self.now += 1
            self.most = max(self.most, self.now)
            self.lock.notify_all()
            # None is answered before as many are here as shall be at once, or have been.
            self.lock.wait_for(lambda: self.most >= self.wanted_at_once, PATIENCE_SECONDS)
        if name == "long.wav":
            self.long_may_end.wait(PATIENCE_SECONDS)
        with self.lock:
            self.now -= 1
            self.answered += 1
            self.order.append(name)
        return self.status, json.dumps({"text": name}).encode()


@contextmanager
def counting_server() -> Iterator[tuple[CountingServer, str]]:
    """One that runs, and its address."""
    counting = CountingServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, content = counting.handle(body, self.headers["Authorization"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield counting, f"127.0.0.1:{http.server_port}"
        counting.long_may_end.set()
        http.shutdown()
        thread.join(PATIENCE_SECONDS)
