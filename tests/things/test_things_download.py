"""Downloads: whole or not there, going on where they were cut, and every failure named."""

from __future__ import annotations

import errno
import hashlib
import random
import shutil
from types import SimpleNamespace

import pytest

from llava.things import download as module
from llava.things.download import download, index_file, room_named
from tests.things.parts import served

CONTENT = random.Random(0).randbytes(300_000)
SHA256, SIZE = hashlib.sha256(CONTENT).hexdigest(), len(CONTENT)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0)


@pytest.fixture
def server(tmp_path):
    page = tmp_path / "simple" / "parts"
    page.mkdir(parents=True)
    (page / "a.whl").write_bytes(CONTENT)
    (page / "index.html").write_text('<a href="a.whl#sha256=0">a.whl</a> <a href="/elsewhere/b.whl">b.whl</a>')
    with served(tmp_path) as server:
        server.file = f"{server.url}/simple/parts/a.whl"
        yield server


def test_a_file_is_fetched_once(server, tmp_path):
    file = tmp_path / "cache" / "a.whl"
    for _ in range(2):
        assert download(server.file, file, SHA256, SIZE) == file
        assert file.read_bytes() == CONTENT and list(file.parent.iterdir()) == [file]
    assert len(server.asked) == 1


def test_what_was_cut_goes_on_where_it_stopped(server, tmp_path):
    server.cut = 70_000
    file = tmp_path / "cache" / "a.whl"
    download(server.file, file, SHA256, SIZE)
    assert file.read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, *(f"bytes={n * 70_000}-" for n in range(1, 5))]


def test_the_next_call_goes_on_too(server, tmp_path, monkeypatch):
    file = tmp_path / "cache" / "a.whl"
    server.cut = 70_000

    def stop(*_):
        raise KeyboardInterrupt

    once = module._append
    monkeypatch.setattr(module, "_append", lambda *a: (once(*a), stop()))
    with pytest.raises(KeyboardInterrupt):
        download(server.file, file, SHA256, SIZE)
    assert not file.exists()
    monkeypatch.setattr(module, "_append", once)
    server.cut = None
    download(server.file, file, SHA256, SIZE)
    assert file.read_bytes() == CONTENT and server.asked[-1][1] == "bytes=70000-"


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    file = tmp_path / "cache" / "a.whl"
    server.cut = 70_000
    server.ranges = False
    with pytest.raises(ConnectionError, match="70000 of 300000 bytes .* goes on from there"):
        download(server.file, file, SHA256, SIZE)
    assert len(server.asked) == 1 + module.ATTEMPTS and not file.exists()
    server.cut = None
    assert download(server.file, file, SHA256, SIZE).read_bytes() == CONTENT


def test_other_content_is_refused_and_not_kept(server, tmp_path):
    file = tmp_path / "cache" / "a.whl"
    other = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(ValueError, match=f"{SHA256} where {other} belongs"):
        download(server.file, file, other, SIZE)
    assert list(file.parent.iterdir()) == []


def test_a_shorter_file_is_another_file(server, tmp_path):
    file = tmp_path / "cache" / "a.whl"
    with pytest.raises(ValueError, match="no more than 300000 bytes where 300001 belong"):
        download(server.file, file, SHA256, SIZE + 1)
    assert list(file.parent.iterdir()) == []


def test_a_damaged_file_is_fetched_anew(server, tmp_path):
    file = tmp_path / "a.whl"
    file.write_bytes(CONTENT[:-1] + b"?")
    assert download(server.file, file, SHA256, SIZE).read_bytes() == CONTENT


def test_a_file_that_is_not_there(server, tmp_path):
    for url in (f"{server.url}/none.whl", (tmp_path / "none.whl").as_uri()):
        with pytest.raises(FileNotFoundError, match=r"none\.whl has no file"):
            download(url, tmp_path / "none.whl", SHA256, SIZE)
    assert not any(".part" in path.name for path in tmp_path.iterdir())


def test_a_disk_without_room_is_named_before_and_during(server, tmp_path, monkeypatch):
    with pytest.raises(OSError, match=f"{tmp_path} has no room left") as full, room_named(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert full.value.errno == errno.ENOSPC
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=SIZE - 1))
    with pytest.raises(OSError, match=rf"needs {SIZE} bytes in .*cache and {SIZE - 1} are free") as full:
        download(server.file, tmp_path / "cache" / "a.whl", SHA256, SIZE)
    assert full.value.errno == errno.ENOSPC and server.asked == []


def test_an_index_gives_the_address(server, tmp_path):
    assert index_file(f"{server.url}/simple", "parts", "a.whl") == server.file
    assert index_file(f"{server.url}/simple/", "parts", "b.whl") == f"{server.url}/elsewhere/b.whl"
    url = index_file((tmp_path / "simple").as_uri(), "parts", "a.whl")
    assert download(url, tmp_path / "copy", SHA256, SIZE).read_bytes() == CONTENT


def test_an_index_without_the_package_or_the_file(server, tmp_path):
    for index in (f"{server.url}/simple", (tmp_path / "simple").as_uri()):
        with pytest.raises(FileNotFoundError, match="has no package other"):
            index_file(index, "other", "a.whl")
        with pytest.raises(FileNotFoundError, match=r"has no c\.whl; it has a\.whl, b\.whl"):
            index_file(index, "parts", "c.whl")


def test_an_index_that_does_not_answer():
    with pytest.raises(ConnectionError, match=r"cannot be reached .*; give another --index"):
        index_file("http://127.0.0.1:9/simple", "parts", "a.whl")
