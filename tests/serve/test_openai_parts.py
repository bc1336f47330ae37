"""The server's parts by themselves: text as it comes, pictures from anywhere, limits and flags."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("pydantic", reason="the server's extra is not installed: pip install 'llava-condense[serve]'")

from llava.serve.openai.__main__ import limits_from, main, parser  # noqa: E402
from llava.serve.openai.chat import Job, Prompt, Sampling  # noqa: E402
from llava.serve.openai.errors import ApiError  # noqa: E402
from llava.serve.openai.images import read_image  # noqa: E402
from llava.serve.openai.limits import Limits  # noqa: E402
from llava.serve.openai.progress import AnswerText, Progress  # noqa: E402


class Letters:
    """A tokenizer of bytes, so that a character may need several ids."""

    def decode(self, ids, skip_special_tokens):
        return bytes(ids).decode("utf-8", errors="replace")


@settings(deadline=None)
@given(st.text("ab \n€é", max_size=30), st.lists(st.text("ab €", min_size=1, max_size=3), max_size=3))
def test_the_pieces_are_the_text_before_the_first_stop_string(text, stops):
    answer, pieces = AnswerText(Letters(), stops), []
    for byte in text.encode():
        pieces.append(answer.add(byte))
        if answer.stopped:
            break
    pieces.append(answer.close())
    # The shortest beginning that holds a stop string, cut at the first that it holds
    reached = next((end for end in range(len(text) + 1) if any(stop in text[:end] for stop in stops)), None)
    assert answer.stopped == (reached is not None)
    cut = len(text) if reached is None else min(text[:reached].index(stop) for stop in stops if stop in text[:reached])
    assert "".join(pieces) == text[:cut].strip()
    shown = ""
    for piece in pieces:
        shown += piece
        assert shown == shown.lstrip() and "\N{REPLACEMENT CHARACTER}" not in shown


def test_half_a_character_at_the_end_is_shown_as_such():
    answer = AnswerText(Letters(), ())
    assert [answer.add(byte) for byte in "a€".encode()[:-1]] == ["a", "", ""]
    assert answer.close() == "\N{REPLACEMENT CHARACTER}"


def test_every_row_ends_by_itself():
    """End of the model, stop string, limit, and a client that has gone: each row its own, none of them the others'."""
    events: list[list] = [[], [], [], []]
    stops = [(), ("c",), (), ()]
    jobs = [Job(Prompt(None, Sampling(), most, 10, 4, ()), events[row].append) for row, most in enumerate((9, 9, 2, 9))]
    progress = Progress(
        jobs, [AnswerText(Letters(), stop) for stop in stops], frozenset({0}), lambda: [[4, row] for row in range(4)]
    )
    rows = torch.tensor([list(b"ab\0aaa"), list(b"abcdef"), list(b"abcdef"), list(b"abcdef")])
    done = []
    for step in range(1, 7):
        if step == 5:
            jobs[3].cancelled.set()
        done.append(progress(rows[:, :step]).tolist())
    assert [[row[number] for row in done].index(True) + 1 for number in range(4)] == [3, 3, 2, 5]
    assert ["".join(event.text for event in row if hasattr(event, "text")) for row in events] == [
        "ab",
        "ab",
        "ab",
        "abcd",
    ]
    ends = [row[-1] for row in events[:3]]
    assert [end.reason for end in ends] == ["stop", "stop", "length"]
    assert [end.usage.completion for end in ends] == [3, 3, 2]
    assert [list(end.usage.visual_per_layer) for end in ends] == [[4, 0], [4, 1], [4, 2]]


@pytest.fixture
def site(tmp_path):
    """A folder behind an http address."""
    Image.new("RGB", (30, 20), (200, 0, 0)).save(tmp_path / "red.png")
    (tmp_path / "page.html").write_text("<p>no picture")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):  # noqa: N802  the library's name
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", (tmp_path / "red.png").as_uri())
                self.end_headers()
            else:
                super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_addresses_are_fetched_where_the_operator_allows_it(site):
    allowed = Limits(image_urls=True)
    assert read_image(f"{site}/red.png", allowed).size == (30, 20)
    for url, limits in (
        (f"{site}/red.png", Limits()),
        (f"{site}/red.png", Limits(image_urls=True, image_bytes=20)),
        (f"{site}/none.png", allowed),
        (f"{site}/page.html", allowed),
        (f"{site}/away", allowed),
    ):
        with pytest.raises(ApiError) as error:
            read_image(url, limits)
        assert error.value.code == "invalid_image_url"


def test_flags_are_limits(monkeypatch):
    flags = parser().parse_args(
        ["--model-path", "x", "--max-batch", "3", "--max_image_bytes", "7", "--allow-image-urls"]
    )
    assert limits_from(flags) == Limits(batch=3, image_bytes=7, image_urls=True)
    with pytest.raises(ValueError, match="batch=0 must be at least 1"):
        limits_from(parser().parse_args(["--model-path", "x", "--max-batch", "0"]))
    monkeypatch.setattr("llava.serve.openai.__main__.installed", lambda package: package != "uvicorn")
    with pytest.raises(ValueError, match="the server needs uvicorn; pip install"):
        main(flags)
