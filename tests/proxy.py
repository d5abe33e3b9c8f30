"""A proxy before a real server that loses replies: what a broken network does to a call that was carried out."""

from __future__ import annotations

import socket
import threading
from pathlib import Path


class Proxy:
    """Passes bytes between Unix sockets; can lose a reply on request.

    Args:
        target: Socket of the server.
        rewrite: Two byte strings of one length; where the server says the first, its client reads the second.
    """

    def __init__(self, target: Path, rewrite: tuple[bytes, bytes] = (b"", b"")) -> None:
        self.socket = target.with_name("proxy.sock")
        self._target = target
        self._rewrite = rewrite
        self._lock = threading.Lock()
        self._replies_left: int | None = None
        self._for_good = False
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_reply(self, after: int = 0, for_good: bool = False) -> None:
        """Break the connection in place of the reply that follows the next `after` ones; `for_good`: and stay down."""
        with self._lock:
            self._replies_left, self._for_good = after, for_good

    def close(self) -> None:
        """Stop listening and break every connection."""
        for end in [self._listener, *self._open]:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()
        self.socket.unlink(missing_ok=True)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._target))
            self._open += [client, server]
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        try:
            while data := source.recv(1 << 20):
                if replies and self._loses():
                    break
                sink.sendall(data.replace(*self._rewrite) if replies and self._rewrite[0] else data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _loses(self) -> bool:
        with self._lock:
            if self._replies_left is None:
                return False
            self._replies_left -= 1
            if self._replies_left >= 0:
                return False
            self._replies_left = None
        if self._for_good:
            self.close()
        return True
