"""The page in a real browser, and what a client can make it read."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="pip install 'llava-condense[demo]'")

from llava.serve.demo.examples import write_examples  # noqa: E402
from tests.eval.screens import look, photograph  # noqa: E402

LONG = 60  # seconds on a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def url(asker, folder):
    """The address of the page, in this process."""
    from llava.serve.ports import free_port

    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    from llava.serve.demo.serving import served

    with served(asker, "127.0.0.1", free_port("127.0.0.1", 0), folder) as address:
        yield address


@pytest.fixture
def page(browser, url):
    """The page, freshly loaded; it asked nobody but its own server."""
    browser.get_log("performance")
    look(browser, 1280, "light")
    browser.get(url)
    until(lambda: browser.find_elements("css selector", "#examples tbody tr"))
    yield browser
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"]
    assert addresses and [other for other in addresses if not other.startswith((url, "data:", "blob:"))] == []


def until(condition):
    """What a condition becomes, once it is so."""
    end = time.monotonic() + LONG
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def upload(page, file) -> None:
    page.find_element("css selector", "#picture input[type=file]").send_keys(str(file))
    until(lambda: page.find_elements("css selector", "#picture img") or message(page))


def field(page, css: str):
    return page.find_element("css selector", css)


def type_into(page, css: str, text: str) -> None:
    element = field(page, css)
    element.clear()
    element.send_keys(text)


def press(page, css: str) -> None:
    page.execute_script("arguments[0].click()", field(page, css))


def message(page) -> str:
    return page.execute_script("return document.querySelector('#message [role=alert]')?.innerText ?? ''")


def plan_box(name: str) -> str:
    return f"#plan-{name} textarea, #plan-{name} input[data-testid=textbox]"


def captions(page) -> list[str]:
    return page.execute_script("return [...document.querySelectorAll('.kept figcaption')].map((one) => one.innerText)")


def test_a_picture_two_plans_and_the_layer(page, folder):
    file, question = write_examples(folder)[2]
    upload(page, file)
    type_into(page, "#question textarea", question)
    press(page, "#ask")
    until(lambda: captions(page) == ["Layer 13: 576 of 576 patches", "Layer 13: 64 of 576 patches"])
    words = [field(page, f"#answer-{name} textarea").get_attribute("value") for name in "AB"]
    assert all(words) and message(page) == ""
    shown = [element.text for element in page.find_elements("css selector", "dl.numbers")]
    assert "576.0" in shown[0] and "137.1" in shown[1] and all(text.count("this request") == 2 for text in shown)
    texts = [element.get_attribute("alt") for element in page.find_elements("css selector", ".kept img")]
    assert texts[1] == "Plan B, fastv@2:64. Layer 13: 64 of 576 patches"
    slider = field(page, "#layer input[type=range]")
    slider.send_keys("\ue011")  # Home: layer 0, before fastv
    until(lambda: captions(page) == ["Layer 0: 576 of 576 patches", "Layer 0: 576 of 576 patches"])
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
        look(page, width, scheme)
        time.sleep(0.3)
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        assert (photograph(page)[:20, :5].mean() > 128) == (scheme == "light")
    unnamed = page.execute_script(
        "return [...document.querySelectorAll('textarea, input:not([type=file])')].filter((one) => one.offsetParent"
        " && !one.labels?.length && !one.ariaLabel && !one.getAttribute('aria-labelledby')).map((one) => one.outerHTML)"
    )
    assert unnamed == []


def test_a_slider_writes_the_plan(page):
    budget = page.find_elements("css selector", "#plan-B input[type=range]")[1]
    budget.send_keys("\ue014")  # one to the right
    until(lambda: field(page, plan_box("B")).get_attribute("value") == "fastv@2:65")
    layer = page.find_elements("css selector", "#plan-B input[type=range]")[0]
    layer.send_keys("\ue014")
    until(lambda: field(page, plan_box("B")).get_attribute("value") == "fastv@3:65")


def test_bad_input_is_one_sentence(page, folder):
    press(page, "#ask")
    until(lambda: "There is no picture" in message(page))
    bad = folder / "bad.png"
    bad.write_bytes(b"this is no picture")
    upload(page, bad)
    type_into(page, "#question textarea", "What?")
    press(page, "#ask")
    until(lambda: "cannot be read" in message(page))
    press(page, "#examples tbody tr")
    until(lambda: field(page, "#question textarea").get_attribute("value") != "What?")
    type_into(page, plan_box("B"), "fastvv")
    press(page, "#ask")
    until(lambda: "Plan B: method 'fastvv' is unknown" in message(page))
    assert captions(page) == []


# ------------------------------------------------------------------------------------------------ a client that means harm


def call(url: str, picture: dict) -> str:
    """What the server streams to a question about a picture that was never uploaded."""
    config = json.loads(urllib.request.urlopen(f"{url}config").read())
    (asked,) = [one for one in config["dependencies"] if len(one["outputs"]) == 8]
    body = {"data": [picture, "What?", 0, "full", "full"], "fn_index": asked["id"], "session_hash": "harm"}
    request = urllib.request.Request(
        f"{url}gradio_api/queue/join", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        urllib.request.urlopen(request).read()
        return urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash=harm", timeout=LONG).read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()


@pytest.mark.parametrize(
    "where", ["FILE", "file://FILE", "http://127.0.0.1:9/picture.png", "https://example.com/x.png"]
)
def test_no_file_of_the_machine_and_no_address_is_read(url, tmp_path, where):
    file = tmp_path / "secret.png"
    Image.new("RGB", (336, 336), "red").save(file)
    path = where.replace("FILE", str(file))
    said = call(url, {"path": path, "url": path, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}})
    assert '"success":false' in said.replace(" ", "") and "GFLOPs" not in said


@pytest.mark.parametrize("path", ["/etc/passwd", "setup.py", "../../../etc/passwd"])
def test_no_file_is_given_out(url, path):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{url}gradio_api/file={path}")
    assert refused.value.code in (403, 404)


def test_an_upload_beyond_the_limit_is_refused(url, asker):
    mark = "x" * 20
    head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'.encode()
    body = head + bytes(asker.limits.image_bytes + 1) + f"\r\n--{mark}--\r\n".encode()
    request = urllib.request.Request(
        f"{url}gradio_api/upload", body, {"Content-Type": f"multipart/form-data; boundary={mark}"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 413
