"""A wire with a proxy in it that ends each long request, as Databricks Apps' does."""

from __future__ import annotations

import math
import socket
import threading
import time
from contextlib import suppress


class Front:
    """A wire of a given speed that cuts each request, but no websocket; a context manager.

    Databricks Apps ends a request after 120 s: 15 MB at 1 Mbit/s. Bytes are counted instead, so
    that a busy machine changes nothing.

    Arguments:
        port: the server's.
        speed: bytes a second, of all connections together.

    Attributes:
        most: bytes of a request and its answer after which it is cut; at first none are too many.
        cuts: requests that were cut.
        up: whether there is a wire.
    """

    def __init__(self, port: int, speed: float) -> None:
        self.port, self.speed, self.most, self.cuts = port, speed, math.inf, 0
        self.up, self.free, self.turn = True, 0.0, threading.Lock()
        self.pairs = list[tuple[socket.socket, socket.socket]]()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.url = f"http://localhost:{self.listener.getsockname()[1]}"

    def __enter__(self) -> Front:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.lose()
        self.listener.close()

    def lose(self) -> None:
        """Lose every connection, and each new one until `up` is true again."""
        self.up = False
        for pair in self.pairs:
            _end(pair)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                if self.up:
                    threading.Thread(target=self._serve, args=(near,), daemon=True).start()
                else:
                    near.close()

    def _serve(self, near: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := near.recv(65536)):
                return
            head += data
        far = socket.create_connection(("127.0.0.1", self.port))
        pair = near, far
        self.pairs.append(pair)
        left = [math.inf]
        if b"\r\nupgrade: websocket" not in head.lower():
            # One request a connection: what is cut is the request.
            head = head.replace(b"\r\nConnection: keep-alive", b"")
            head = head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            left = [self.most]
        far.sendall(head)
        threading.Thread(target=self._pump, args=(near, far, left), daemon=True).start()
        self._pump(far, near, left)
        _end(pair)
        for end in pair:
            end.close()

    def _pump(self, source: socket.socket, sink: socket.socket, left: list[float]) -> None:
        with suppress(OSError):
            while data := source.recv(32768):
                left[0] -= len(data)
                if left[0] < 0:
                    self.cuts += 1
                    return _end((source, sink))
                with self.turn:
                    self.free = max(self.free, time.monotonic()) + len(data) / self.speed
                    wait = self.free - time.monotonic()
                time.sleep(max(wait, 0))
                sink.sendall(data)


def _end(pair: tuple[socket.socket, socket.socket]) -> None:
    for end in pair:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
