"""The server over a real connection, asked by the official client."""

from __future__ import annotations

import base64
import io
import re
import socket
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

REASON = "the server's extra is not installed: pip install 'llava-condense[serve]' openai httpx"
pytest.importorskip("fastapi", reason=REASON)
uvicorn = pytest.importorskip("uvicorn", reason=REASON)
openai = pytest.importorskip("openai", reason=REASON)
httpx = pytest.importorskip("httpx", reason=REASON)

import llava  # noqa: E402
from llava.conversation import get_conversation  # noqa: E402
from llava.mm_utils import process_images, tokenizer_image_token  # noqa: E402
from llava.serve.openai.app import create_app  # noqa: E402
from llava.serve.openai.limits import Limits  # noqa: E402
from llava.serve.openai.llava_chat import LlavaChat  # noqa: E402
from llava.shapes.world import make_scene, render  # noqa: E402
from tests.conftest import PARITY15  # noqa: E402

ROOT = Path(__file__).parents[2]
SHAPES = ROOT / "playground/checkpoints/llava-shapes-v1"
BACKGROUND = "What is the background of the image?"
LIMITS = Limits(
    image_bytes=1_000_000,
    image_pixels=4_000_000,
    images=3,
    max_tokens=400,
    text_bytes=40_000,
    upload_seconds=2,
    open_requests=7,
)


class Running:
    """An application behind a port of this machine, in a thread."""

    def __init__(self, app):
        self.server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
        self.thread = threading.Thread(target=self.server.run)

    def __enter__(self) -> Running:
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)
        return self

    def __exit__(self, *_) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()

    def post(self, **body):
        return httpx.post(f"{self.url}/v1/chat/completions", json={"model": "shapes", **body}, timeout=60)

    def idle(self) -> bool:
        """Whether all answers have ended, waited for."""
        end = time.monotonic() + 30
        while httpx.get(f"{self.url}/health").json()["open_requests"]:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True


class Watched(LlavaChat):
    """A chat that remembers its batches, and can be made to wait before it answers."""

    batches: list[list[str]] = []
    gate, arrived = threading.Event(), threading.Event()

    def generate(self, jobs):
        self.arrived.set()
        self.gate.wait(60)
        self.batches.append(["+".join(map(str, job.prompt.inputs.plan)) for job in jobs])
        if jobs:
            super().generate(jobs)


@pytest.fixture(scope="module")
def shapes():
    tokenizer, model, image_processor, _ = llava.load_pretrained_model(SHAPES, device="cpu")
    return Watched("shapes", tokenizer, model, image_processor, get_conversation("vicuna_v1"))


@pytest.fixture(scope="module")
def server(shapes):
    with Running(create_app(shapes, LIMITS)) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh_start_of_a_test():
    fresh_start()


def fresh_start() -> None:
    Watched.gate.set()
    Watched.arrived.clear()
    Watched.batches.clear()


@pytest.fixture(scope="module")
def talker():
    """A random model, which talks until it is stopped."""
    tokenizer, model, image_processor, _ = llava.load_pretrained_model(
        PARITY15 / "checkpoint", None, "llava", device="cpu"
    )
    return Watched("talker", tokenizer, model, image_processor, get_conversation("vicuna_v1"))


@pytest.fixture(scope="module")
def talking(talker):
    with Running(create_app(talker, LIMITS)) as running:
        yield running


def until(condition) -> None:
    """Wait until something is so."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def together(server: Running, *calls, meanwhile=lambda: None):
    """Make calls at once: the first is held before it is answered until the others wait behind it. Returns their futures.

    meanwhile: what is done while all wait.
    """
    Watched.gate.clear()
    try:
        with ThreadPoolExecutor(len(calls)) as pool:
            first = pool.submit(calls[0])
            until(Watched.arrived.is_set)
            others = [pool.submit(call) for call in calls[1:]]
            until(lambda: httpx.get(f"{server.url}/health").json()["waiting"] == len(others))
            meanwhile()
            Watched.gate.set()
    finally:
        Watched.gate.set()
    return [first, *others]


def data_url(image: Image.Image, kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def asked(question: str = BACKGROUND, *urls: str, scene: int = 1) -> list[dict]:
    urls = urls or (data_url(render(make_scene(scene))),)
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": question}, *pictures]}]


def ask(server: Running, model: str = "shapes", messages=None, reduction=None, **options):
    extra = {} if reduction is None else {"extra_body": {"reduction": reduction}}
    return server.client.chat.completions.create(model=model, messages=messages or asked(), **extra, **options)


def expected(chat: LlavaChat, question: str, scene: int, plan: str, **options) -> str:
    """What the model says without any server."""
    talk = chat.conversation.copy()
    talk.append_message(talk.roles[0], f"<image>\n{question}")
    talk.append_message(talk.roles[1], None)
    ids = tokenizer_image_token(talk.get_prompt(), chat.tokenizer, return_tensors="pt")[None]
    pixels = process_images([render(make_scene(scene))], chat.image_processor, chat.model.config)
    output = chat.model.generate(ids, images=pixels, reduction=plan, do_sample=False, **options)
    return chat.tokenizer.decode(output[0], skip_special_tokens=True).strip()


# ---------------------------------------------------------------------------------------------------------------- answers


def test_the_answer_is_the_model_s_and_the_usage_counts_its_tokens(server, shapes):
    answer = ask(server, reduction="fastv@2:64")
    assert answer.choices[0].message.content == expected(shapes, BACKGROUND, 1, "fastv@2:64", max_new_tokens=16)
    assert answer.choices[0].finish_reason == "stop" and answer.object == "chat.completion" and answer.model == "shapes"
    usage = answer.usage
    text = tokenizer_image_token(shapes._written(shapes_turns(BACKGROUND)), shapes.tokenizer, return_tensors="pt")
    assert usage.prompt_tokens == len(text) - 1 + 576
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and usage.completion_tokens == 2
    layers = [576, 576] + [64] * 12
    assert usage.visual_tokens == {"before": 576, "after": 64, "mean_per_layer": round(sum(layers) / 14, 2)}


def shapes_turns(question):
    from llava.serve.openai.chat import Turn

    return [Turn("user", question, [render(make_scene(1))])]


@pytest.mark.parametrize("plan", [None, "", "divprune:32", "fastv@2:25%", [{"method": "fastv", "layer": 2, "keep": 8}]])
def test_a_stream_is_the_plain_answer(talking, plan):
    options = {"model": "talker", "reduction": plan, "max_tokens": 40}
    plain = ask(talking, **options)
    chunks = list(ask(talking, **options, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage == plain.usage
    parts = [chunk.choices[0] for chunk in chunks[:-1]]
    assert "".join(part.delta.content or "" for part in parts) == plain.choices[0].message.content
    assert parts[0].delta.role == "assistant" and len(parts) > 10
    assert (
        [part.finish_reason for part in parts if part.finish_reason] == [plain.choices[0].finish_reason] == ["length"]
    )
    assert len({chunk.id for chunk in chunks}) == 1 and plain.usage.completion_tokens == 40


def test_a_stream_ends_with_done(server):
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json={"model": "shapes", "messages": asked(), "stream": True}
    ) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: {") for line in lines[:-1])


def test_the_text_is_the_tokenizer_s(talker, talking):
    """Piece by piece it comes to what decoding all ids at once gives."""
    for scene in range(3):
        text = ask(talking, "talker", asked("Describe it.", data_url(render(make_scene(scene)))), max_tokens=60)
        assert text.choices[0].message.content == expected(talker, "Describe it.", scene, None, max_new_tokens=60)


def test_requests_with_different_plans_at_once_get_what_each_gets_alone(talking):
    plans = ["divprune:16", "fastv@2:16", None, "divprune:16", "fastv@2:16", "divprune:64"]

    def one(number):
        messages = asked(f"Question {'again ' * number}?", data_url(render(make_scene(number))))
        return ask(talking, "talker", messages, plans[number], max_tokens=10 + number).choices[0].message.content

    alone = [one(number) for number in range(len(plans))]
    fresh_start()
    answers = together(talking, *[partial(one, number) for number in range(len(plans))])
    assert [answer.result() for answer in answers] == alone
    assert all(len(set(batch)) == 1 for batch in Watched.batches), "plans never mix"
    assert sorted(map(len, Watched.batches)) == [1, 1, 1, 1, 2], (
        "the first did not wait, two of one plan waited together"
    )


def test_requests_of_one_plan_share_a_batch(talking):
    def one(number):
        messages = asked("Why?" * (number + 1), data_url(render(make_scene(number))))
        return ask(talking, "talker", messages, "fastv@2:16", max_tokens=8 + 4 * number).choices[0].message.content

    alone = [one(number) for number in range(5)]
    fresh_start()
    answers = together(talking, *[partial(one, number) for number in range(5)])
    assert [answer.result() for answer in answers] == alone
    assert list(map(len, Watched.batches)) == [1, 4], "the first did not wait, the others waited together"


def test_several_pictures_turns_and_a_system_text(talking, talker):
    urls = [data_url(render(make_scene(number)), kind) for number, kind in ((1, "PNG"), (2, "JPEG"))]
    messages = [
        {"role": "system", "content": "Be brief."},
        *asked("Compare them.", *urls),
        {"role": "assistant", "content": "They differ."},
        {"role": "user", "content": "How?"},
    ]
    answer = ask(talking, "talker", messages, max_tokens=4)
    assert answer.usage.visual_tokens["before"] == 2 * talker.model.get_vision_tower().num_patches
    words = ask(talking, "talker", [{"role": "user", "content": "No picture."}], max_tokens=4)
    assert words.usage.visual_tokens == {"before": 0, "after": 0, "mean_per_layer": 0}


def test_crops_are_counted_before_anything_runs(llava16, monkeypatch):
    monkeypatch.setattr(llava16.model.config, "tokenizer_model_max_length", 8192)
    for case in [case for case in llava16.cases() if case["images"]][:3]:
        inputs = llava16.inputs(case)
        pictures = {"images": inputs["images"], "image_sizes": inputs["image_sizes"]}
        spliced = llava16.model.splice(inputs["input_ids"], **pictures)
        counts = [int((spliced.visual == number + 1).sum()) for number in range(len(case["images"]))]
        assert llava16.model.visual_tokens(**pictures) == counts


def test_sampling_follows_its_seed(talking):
    options = {"model": "talker", "temperature": 1.0, "top_p": 0.9, "max_tokens": 12}
    first, again, other = (ask(talking, seed=seed, **options).choices[0].message.content for seed in (1, 1, 2))
    assert first == again != other
    assert ask(talking, model="talker", max_tokens=12).choices[0].message.content != first


def test_an_answer_ends_before_a_stop_string(talking):
    whole = ask(talking, "talker", max_tokens=40).choices[0].message.content
    stop = whole[12:15]
    cut = ask(talking, "talker", max_tokens=40, stop=[stop, "never there"])
    assert cut.choices[0].message.content == whole[: whole.index(stop)].rstrip()
    assert cut.choices[0].finish_reason == "stop" and stop not in cut.choices[0].message.content
    streamed = ask(talking, "talker", max_tokens=40, stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == cut.choices[0].message.content


def test_the_model_is_listed(server):
    assert [model.id for model in server.client.models.list()] == ["shapes"]
    health = httpx.get(f"{server.url}/health").json()
    assert health["status"] == "ok"


# --------------------------------------------------------------------------------------------------------------- refusals


def noise(side: int) -> Image.Image:
    pixels = torch.randint(0, 256, (side, side, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("data:image/png;base64,AAAA", 400, "invalid_image"),
        ("data:image/png;base64,%%%", 400, "invalid_image"),
        (data_url(render(make_scene(1)))[:-300] + "AAAA", 400, "invalid_image"),
        (data_url(noise(700)), 413, "image_too_large"),
        (data_url(Image.new("L", (2100, 2100))), 400, "image_too_large"),
        ("file:///etc/passwd", 400, "invalid_image_url"),
        ("/etc/passwd", 400, "invalid_image_url"),
        ("http://127.0.0.1:1/a.png", 400, "invalid_image_url"),
    ],
)
def test_a_picture_that_cannot_be_taken(server, url, status, code):
    with pytest.raises(openai.APIStatusError) as error:
        ask(server, messages=asked(BACKGROUND, url))
    assert (error.value.status_code, error.value.code) == (status, code) and error.value.param == "messages"
    assert ask(server).choices[0].message.content, "the server goes on"


def test_a_bomb_is_refused_by_its_header(server):
    """A file that says it has 10 ** 10 pixels is refused without being decoded."""
    content = bytearray(base64.b64decode(data_url(Image.new("L", (8, 8))).partition(",")[2]))
    content[16:24] = (100_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    began = time.monotonic()
    with pytest.raises(openai.BadRequestError):
        ask(server, messages=asked(BACKGROUND, url))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"reduction": "fastw@2:64"}, "reduction", "did you mean"),
        ({"reduction": "fastv@99:64"}, None, "out of range"),
        ({"reduction": "fastv@2:9999"}, None, "exceeds the 576"),
        ({"reduction": "/etc/plan.yaml"}, "reduction", "cannot name files"),
        ({"reduction": "merger:64,weights=/etc"}, "reduction", "cannot name files"),
        ({"reduction": [{"method": "merger", "keep": 4, "weights": "/etc"}]}, "reduction", "cannot name files"),
        ({"reduction": {"layer": 2}}, "reduction", "method"),
        ({"n": 2}, "n", "n: "),
        ({"tools": []}, "tools", "not supported"),
        ({"logprobs": True}, "logprobs", "logprobs"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 401}, "max_tokens", "exceeds the server's 400"),
        ({"stop": ""}, "stop", "empty"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "user, assistant"),
        ({"messages": [{"role": "user", "content": "<image> x"}]}, None, "1 <image> for 0 images"),
        ({"messages": asked("x", *[data_url(Image.new("L", (8, 8)))] * 4)}, "messages", "4 pictures exceed"),
        ({"messages": [{"role": "user", "content": "word " * 4100}]}, None, "exceed the model's 4096 positions"),
    ],
)
def test_what_cannot_be_asked_says_why(server, body, param, message):
    answer = server.post(**{"messages": asked(), **body})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error"
    assert message in error["message"] and error["param"] == param
    if "stream" not in body:
        streamed = server.post(**{"messages": asked(), **body, "stream": True})
        assert streamed.status_code == 400 and streamed.json() == answer.json(), "refused before the stream begins"


def test_other_refusals(server):
    assert server.post(model="gpt", messages=asked()).json()["error"]["code"] == "model_not_found"
    assert httpx.post(f"{server.url}/v1/chat/completions", content=b"{").status_code == 400
    assert httpx.post(f"{server.url}/v1/chat/completions", content=b"\xff" * 10).status_code == 400
    assert httpx.post(f"{server.url}/v1/chat/completions", content=b" " * (LIMITS.body_bytes + 1)).status_code == 413
    assert server.post(messages=[{"role": "user", "content": "x" * 50_000}]).status_code == 413
    assert "error" in httpx.get(f"{server.url}/v1/nothing").json()
    assert ask(server).choices[0].message.content


def test_a_request_that_never_arrives_gives_its_place_back(server):
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")
    assert server.idle()


def test_one_that_cannot_be_answered_does_not_spoil_its_batch(server, monkeypatch):
    """Two prompts of one plan, of which one has no picture, at which the plan fails."""
    plan = "grid:64"
    good = ask(server, reduction=plan).choices[0].message.content
    original = Watched.generate

    def failing(self, jobs):
        original(self, [job for job in jobs if job.prompt.visual and len(jobs) == 1])
        if len(jobs) > 1 or not jobs[0].prompt.visual:
            raise ValueError("no picture to reduce")

    monkeypatch.setattr(Watched, "generate", failing)
    first, fine, bad = together(
        server,
        partial(ask, server, reduction="divprune:4"),
        partial(ask, server, reduction=plan),
        partial(ask, server, messages=[{"role": "user", "content": "Why?"}], reduction=plan),
    )
    assert fine.result().choices[0].message.content == good and first.result()
    with pytest.raises(openai.BadRequestError, match="no picture to reduce"):
        bad.result()


def test_a_failure_of_the_model_is_told_and_survived(server, monkeypatch):
    def broken(self, jobs):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Watched, "generate", broken)
        with pytest.raises(openai.InternalServerError) as error:
            ask(server)
    assert "RuntimeError" in str(error.value) and "out of memory" not in str(error.value)
    assert ask(server).choices[0].message.content


def test_too_many_at_once_are_told_so(server):
    def one_more():
        with pytest.raises(openai.RateLimitError) as error:
            ask(server)
        assert error.value.code == "queue_full"

    alone = ask(server).choices[0].message.content
    fresh_start()
    answers = together(server, *[partial(ask, server)] * LIMITS.open_requests, meanwhile=one_more)
    assert {answer.result().choices[0].message.content for answer in answers} == {alone}
    assert server.idle() and ask(server)


# -------------------------------------------------------------------------------------------------------------- goodbyes


@pytest.fixture
def counted(talker, monkeypatch):
    """How many steps the decoder has taken."""
    steps = []
    forward = talker.model.model.forward
    monkeypatch.setattr(talker.model.model, "forward", lambda *a, **k: steps.append(1) or forward(*a, **k))
    return steps


def test_a_client_that_leaves_a_stream_ends_its_answer(talking, counted):
    stream = ask(talking, "talker", max_tokens=400, stream=True)
    for _, chunk in zip(range(5), stream):
        assert chunk.choices
    stream.close()
    assert talking.idle() and len(counted) < 300
    assert ask(talking, "talker", max_tokens=3).usage.completion_tokens == 3


def test_a_client_that_does_not_wait_for_its_answer_ends_it(talking, counted):
    with pytest.raises(openai.APITimeoutError):
        ask(talking, "talker", max_tokens=400, timeout=0.3)
    assert talking.idle() and len(counted) < 390
    assert ask(talking, "talker", max_tokens=3).usage.completion_tokens == 3


def test_a_client_that_leaves_the_queue_is_never_answered(talking):
    def impatient():
        with pytest.raises(openai.APITimeoutError):
            ask(talking, "talker", reduction="divprune:4", max_tokens=2, timeout=1)

    Watched.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, talking, "talker", max_tokens=2)
        until(Watched.arrived.is_set)
        impatient()
        until(lambda: httpx.get(f"{talking.url}/health").json() == {"status": "ok", "open_requests": 1, "waiting": 0})
        Watched.gate.set()
        assert first.result()
    assert talking.idle() and Watched.batches == [[""]]


def test_the_server_stops_in_the_middle_of_an_answer(talker, counted):
    with Running(create_app(talker, LIMITS)) as running:
        stream = ask(running, "talker", max_tokens=400, stream=True)
        next(stream)
        stream.close()
    assert len(counted) < 390


# ------------------------------------------------------------------------------------------------------------------ pages


def test_the_page_s_client_runs(server, capsys):
    page = (ROOT / "docs" / "serving.md").read_text()
    (code,) = re.findall(r"<!-- client, runs as a test -->\n```python\n(.+?)```", page, flags=re.S)
    code = code.replace("http://127.0.0.1:8000", server.url).replace("llava-shapes-v1", "shapes")
    code = code.replace("playground/", f"{ROOT}/playground/")
    exec(compile(code, "docs/serving.md", "exec"), {})
    assert "visual_tokens" in capsys.readouterr().out
