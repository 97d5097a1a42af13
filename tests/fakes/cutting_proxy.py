"""Stands between a client and a server, and cuts connections at a chosen place of the answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class CuttingProxy:
    """Use as a context manager.

    cuts: for each connection in turn, after which bytes of the answer it is cut (b"" before the first one); a
    connection beyond the list is left alone. target: the server's port, to be set before the first connection.
    requests: what was asked on each connection that is over.
    """

    def __init__(self, cuts: list[bytes]) -> None:
        self.target = 0
        self._cuts = list(cuts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> CuttingProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            cut = self._cuts.pop(0) if self._cuts else None
            threading.Thread(target=self._carry, args=(client, cut), daemon=True).start()

    def _carry(self, client: socket.socket, cut: bytes | None) -> None:
        server = socket.create_connection(("127.0.0.1", self.target))
        asked = bytearray()
        up = threading.Thread(target=self._carry_up, args=(client, server, asked), daemon=True)
        up.start()
        answer = b""
        try:
            while data := server.recv(65536):
                answer += data
                if cut is not None and cut in answer:
                    behind = len(answer) - answer.index(cut) - len(cut)
                    client.sendall(data[: max(0, len(data) - behind)])
                    break
                client.sendall(data)
        except OSError:
            pass  # the client went first
        finally:
            self.requests.append(bytes(asked))
            for one in (client, server):
                try:
                    one.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
                finally:
                    one.close()

    def _carry_up(self, client: socket.socket, server: socket.socket, asked: bytearray) -> None:
        try:
            while data := client.recv(65536):
                asked += data
                server.sendall(data)
        except OSError:
            pass  # reset: the client went without reading all
        finally:
            # The server would wait for another request of a client that is gone.
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_WR)
