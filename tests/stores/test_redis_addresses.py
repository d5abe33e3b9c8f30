"""Addresses that cannot be used say what is wrong with them; few connections are waited for."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared_core.errors import ConfigurationError, StoreIsUnusable
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.address import masked
from shared_core.store.redis import RedisStore
from tests.servers import RedisServer, free_port
from tests.stores.makers import make_decision, make_example
from tests.tls import TlsFront, make_certificates


def refused(url: str) -> str:
    with pytest.raises((StoreIsUnusable, ConfigurationError)) as raised:
        open_store(url, settings=Settings())
    return str(raised.value)


# TLS ------------------------------------------------------------------------------------------------------------------

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls")
    make_certificates(made)
    return made


@pytest.fixture
def tls(folder: Path, redis_server: RedisServer) -> Iterator[str]:
    with TlsFront(redis_server.socket, folder / "server.pem", folder / "server.key") as port:
        yield f"rediss://localhost:{port}/0?pool=tls&socket_timeout=1"


@needs_openssl
def test_a_private_authority_is_named_in_the_address(tls: str, folder: Path) -> None:
    store = open_store(f"{tls}&ssl_ca_certs={folder}/ca.pem", settings=Settings())
    store.put([make_example()])
    assert store.delete("s", ["e1"]) == 1
    store.close()


@needs_openssl
def test_what_is_wrong_with_tls_is_named(tls: str, folder: Path) -> None:
    assert "add ?ssl_ca_certs=" in refused(tls)
    for option in (
        "ssl_ca_certs=/none.pem",
        f"ssl_ca_certs={folder}/server.key",
        "ssl_certfile=/none&ssl_keyfile=/none",
    ):
        message = refused(f"{tls}&{option}")
        assert "ssl_ca_certs=" in message and "start the server" not in message
    assert "rediss:// if it speaks TLS" in refused(tls.replace("rediss", "redis"))


def test_tls_to_a_server_without_it() -> None:
    port = free_port()
    with RedisServer(port, save="3600 1"):
        assert "redis:// if it does not speak TLS" in refused(f"rediss://localhost:{port}/0?socket_timeout=0.2")


@pytest.mark.parametrize("option", ["ssl_ca_certs=/x.pem", "ssl_cert_reqs=none", "ssl_keyfile=/k&ssl_certfile=/c"])
@pytest.mark.parametrize("scheme", ["redis", "unix"])
def test_options_of_tls_need_its_scheme(scheme: str, option: str) -> None:
    message = refused(f"{scheme}://localhost/0?{option}")
    assert "write rediss:// for TLS" in message
    assert "ssl_" in message


@pytest.mark.parametrize("option", ["ssl_foo=1", "ssl_=1", "ssl_ca_cert=/x.pem"])
def test_unknown_options_of_tls_are_refused_with_the_known_ones(option: str) -> None:
    assert "ssl_ca_certs" in refused(f"rediss://localhost/0?{option}")


# servers that are there, and cannot be used ---------------------------------------------------------------------------


def test_a_cluster_without_slots_is_no_raw_error() -> None:
    port = free_port()
    with RedisServer(port, save="3600 1", cluster_enabled="yes"):
        assert "slots" in refused(f"redis://localhost:{port}/0")


def test_a_server_that_is_loading_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    while connection.recv(65536):
                        connection.sendall(b"-LOADING Redis is loading the dataset in memory\r\n")

        threading.Thread(target=answer, daemon=True).start()
        message = refused(f"redis://127.0.0.1:{listener.getsockname()[1]}/0?socket_timeout=1")
        assert "still loading its data; try again" in message
        assert "start the server" not in message


# few connections ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 3])
def test_threads_wait_for_a_connection(redis_server: RedisServer, most: int) -> None:
    store = RedisStore.open(redis_server.url(max_connections=str(most)), settings=Settings(), clock=time.time)

    def use(number: int) -> None:
        for turn in range(4):
            store.record(make_decision(f"d{number}-{turn}"), make_example(f"e{number}-{turn}"))

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(use, range(16)))
    assert store.count("s") == 64
    store.close()


@pytest.mark.parametrize("number", ["0", "-1", "-100"])
def test_no_connections_at_all_are_refused(number: str) -> None:
    assert "max_connections" in refused(f"redis://localhost/0?max_connections={number}")


def test_few_connections_follow_a_failover() -> None:
    """As `on_the_primary` needs it: free connections are broken, and opened again."""
    with RedisServer(save="3600 1") as server:
        store = RedisStore.open(server.url(max_connections="2"), settings=Settings(), clock=time.time)
        store._wire._client.connection_pool.disconnect(inuse_connections=False)
        store.put([make_example()])
        assert store.count("s") == 1
        store.close()


# passwords ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "redis//app:hunter2@h/0",
        "redis:app:hunter2@h/0",
        "app:hunter2@h",
        "sqlite://app:hunter2@h/0",
        "sqlite//app:hunter2@h",
        "mysql://app:hunter2@h/db",
        "redis ://app:hunter2@h/db",
        "redis://app:hunter2@h/db?pool=a}",
        "rediss://h/0?ssl_password=hunter2&ssl_foo=1",
        "redis://h/0?password=hunter2&foo=1",
    ],
)
def test_a_mistyped_address_is_not_quoted_with_its_password(url: str) -> None:
    assert "hunter2" not in refused(url)
    assert "hunter2" not in masked(url)


@pytest.mark.parametrize("url", ["redis://h/0", "sqlite:////a/b:c@d.db", "sqlite:///a@b.db", "unix:///a.sock?pool=x"])
def test_what_holds_no_password_stays(url: str) -> None:
    assert masked(url) == url
