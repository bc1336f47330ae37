"""A port that is in use is told before a model is loaded, by the server and by the demo."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from llava.serve.demo import __main__ as demo
from llava.serve.openai import __main__ as server
from llava.serve.ports import free_port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield one.getsockname()[1]


def test_a_free_port_is_found_and_a_given_one_kept(taken):
    port = free_port("127.0.0.1", 0)
    assert port not in (0, taken) and free_port("127.0.0.1", port) == port


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 99999), ("203.0.113.1", 0)])
def test_where_nobody_can_listen(host, port):
    with pytest.raises(ValueError, match=f"--host {host} --port {port} cannot be listened at"):
        free_port(host, port)


def test_the_server_tells_it(taken):
    options = server.parser().parse_args(["--model-path", "nothing", "--port", str(taken)])
    with pytest.raises(ValueError, match=f"--port {taken} cannot be listened at.*give another --port"):
        server.main(options)


def test_the_demo_tells_it(taken, monkeypatch, caplog):
    monkeypatch.setattr(demo, "installed", lambda package: True)
    assert demo.main(["--port", str(taken)]) == 2 and f"--port {taken} cannot be listened at" in caplog.text
