"""The page: self-contained and escaped, its charts where the numbers are, and clicked through in a headless browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llava.eval.report.page import write_page
from llava.eval.report.page.chart import make_chart
from llava.eval.report.page.plot import AXES
from llava.eval.report.runs import collect
from tests.eval.folders import add_samples, make_run, questions
from tests.eval.screens import look, photograph

KEYS = questions(pictures=4)
SHOWN = ["existence/0000.png#1", "existence/0000.png#2", "count/0001.png#1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    make_run(root, "full", keys=KEYS)
    for keep, wrong in ((128, 2), (64, 4), (16, 12)):
        add_samples(make_run(root, f"fastv@2:{keep}", KEYS[:wrong], tokens=keep, keys=KEYS), SHOWN, [0, 5, 10])
        make_run(root, f"random@2:{keep}", KEYS[: wrong + 4], tokens=keep, keys=KEYS)
    add_samples(make_run(root, "pool:16", KEYS[:6], tokens=16, keys=KEYS), SHOWN, [5, 10], merges=True)
    add_samples(make_run(root, "blind", KEYS[::2], keys=KEYS), SHOWN, [])
    return root


@pytest.fixture(scope="module")
def page(made, tmp_path_factory) -> Path:
    return write_page(*collect([made]), tmp_path_factory.mktemp("page") / "report.html")


def data(page: Path) -> dict:
    """What the page gives its script."""
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def test_nothing_is_fetched(page):
    text = page.read_text()
    assert "default-src 'none'" in text and "</html>" in text
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:|//|file:)""", text)
    assert not re.search(r"<link(?! rel=\"icon\" href=\"data:,\")|@import|<script src", text)


def test_the_policy_lets_the_pages_own_style_and_script_in_and_no_other(page):
    """By their hashes; the text of the elements is what is hashed, and no element has a style of its own."""
    text = page.read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "unsafe" not in policy and "style=" not in text
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_the_samples_are_embedded_once_a_picture(page):
    held = data(page)
    assert held["layers"] == 4 and [picture["category"] for picture in held["pictures"]] == ["existence", "count"]
    assert page.read_text().count("data:image/jpeg;base64,") == 2
    first = held["pictures"][0]["questions"][0]
    assert first["label"] == "Yes" and len(first["answers"]) == 9
    answers = {answer["plan"]: answer for answer in first["answers"]}
    assert answers["full"]["right"] and answers["full"]["tokens"] == [[0, 576]] and answers["full"]["stages"] == []
    fastv = answers["fastv@2-64"]
    assert (fastv["right"], fastv["text"], fastv["tokens"]) == (False, "No", [[0, 576], [2, 64]])
    assert fastv["patches"] == 4 and fastv["stages"][0]["kept"] == "8420"


def test_what_a_model_says_cannot_become_code(made, tmp_path):
    root = Path(shutil.copytree(made, tmp_path / "results"))
    file = root / "full/predictions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if line["key"] in SHOWN:
            line["prompt"] = "</script><script>alert(1)</script>"
            line["text"] = "Yes</script><img src=x>" if line["correct"] else line["text"]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows, _ = collect([root])
    rows = [replace(rows[0], plan="<b>full</b>", note="<i>note</i>"), *rows[1:]]
    text = write_page(rows, [], tmp_path / "report.html").read_text()
    assert "<img src=x>" not in text and "alert(1)</script>" not in text
    assert "<b>full" not in text and "&lt;b&gt;full" in text and "&lt;i&gt;note" in text
    assert data(tmp_path / "report.html")["pictures"][0]["questions"][0]["answers"][0]["text"].startswith(
        "Yes</script>"
    )


def test_a_chart_is_logarithmic_along_and_linear_upwards(made):
    """Half as many tokens is the same step to the left everywhere; as many points fewer the same step down."""
    row = next(row for row in collect([made])[0] if row.plan == "fastv@2-64")

    def run(tokens: float, score: float):
        return replace(row, visual_tokens=tokens, score=score, score_interval=[score - 10, score + 10])

    chart = make_chart([run(400, 500), run(200, 400), run(100, 300)], AXES[0], "wide", 1080, 460)
    (line,) = chart.series
    cheap, middle, dear = line.points
    assert middle.x - cheap.x == pytest.approx(dear.x - middle.x, abs=0.2) and cheap.x < dear.x
    assert cheap.y - middle.y == pytest.approx(middle.y - dear.y, abs=0.2) and dear.y < cheap.y
    assert dear.high < dear.y < dear.low and chart.top <= dear.high and cheap.low <= chart.bottom
    assert chart.left < cheap.x < dear.x < chart.right
    assert [tick.text for tick in chart.x_ticks] == ["128", "256"] or len(chart.x_ticks) >= 3


def test_labels_of_levels_do_not_touch_and_ticks_have_room(made):
    rows, _ = collect([made])
    full = next(row for row in rows if row.method == "full")
    near = replace(full, method="blind", plan="blind", score=full.score - 1)
    for axis in AXES:
        chart = make_chart([full, near, *(row for row in rows if row.method == "fastv@2")], axis, "narrow", 358, 400)
        if chart is None:  # every run took the same time
            assert axis.name == "ms"
            continue
        upper, lower = chart.references
        assert lower.label - upper.label >= 30
        places = [tick.at for tick in chart.x_ticks]
        assert all(second - first >= 38 for first, second in zip(places, places[1:]))


def test_a_cost_that_one_run_alone_has_is_no_chart(made):
    rows = [row for row in collect([made])[0] if row.plan in ("full", "fastv@2-64")]
    assert make_chart(rows, AXES[0], "wide", 1080, 460) is None


def test_two_boards_have_names_of_their_own(made, tmp_path):
    make_run(tmp_path / "other", "full", keys=KEYS, name="other")
    make_run(tmp_path / "other", "fastv@2:64", keys=KEYS, name="other")
    text = write_page(*collect([made, tmp_path / "other"]), tmp_path / "report.html").read_text()
    names = re.findall(r'\bid="([^"]+)"', text)
    assert len(names) == len(set(names)) == 2 and text.count("These runs have stored no samples") == 1
    assert 'href="#board-1"' in text and text.count('name="board-0-axis"') >= 2


def test_a_picture_that_is_gone_is_warned_of(made, tmp_path, caplog):
    root = Path(shutil.copytree(made, tmp_path / "results"))
    shutil.rmtree(root / "pictures")
    write_page(*collect([root]), tmp_path / "report.html")
    assert caplog.text.count("is gone; its sample is shown without the picture") == 2
    assert data(tmp_path / "report.html")["pictures"][0]["src"] == ""


def test_heat_maps_hold_scores_and_differences(page):
    """12 wrong answers of fastv@2:16 are 8 of existence and 4 of count, in sixth pictures: 0 and half of 200."""
    text = page.read_text()
    rows = re.findall(r'<tr><th scope="row" class="words">(.*?)</th>(.*?)</tr>', text, re.DOTALL)
    cells = [re.findall(r">([^<]+)</td>", held) for plan, held in rows if plan.replace("<wbr>", "") == "fastv@2-16"]
    assert cells == [["0", "100", "200"], ["-200", "-100", "0"]]


# In a browser


@pytest.fixture
def opened(browser, page):
    """The page, freshly loaded at 1280 x 900 and light; what went wrong while a test used it is asserted afterwards."""
    browser.get_log("browser"), browser.get_log("performance")
    look(browser, 1280, "light")
    browser.get(page.as_uri())
    yield browser
    assert browser.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"]
    assert addresses and [url for url in addresses if not url.startswith(("data:", page.as_uri()))] == []


def column(browser, number: int) -> list[str]:
    script = (
        "return [...document.querySelectorAll('.leaderboard tbody tr')].map((row) => row.cells[arguments[0]].innerText)"
    )
    return [text.split("\n")[0] for text in browser.execute_script(script, number)]


def press(browser, css: str, number: int = 0):
    element = browser.find_elements("css selector", css)[number]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    element.click()
    return element


def test_the_leaderboard_sorts_by_mouse_and_by_keyboard(opened):
    heads = ".leaderboard thead button"
    names = [head.text.replace("\u00a0", " ") for head in opened.find_elements("css selector", heads)]
    accuracy = names.index("accuracy % [95 %]")
    press(opened, heads, accuracy)
    values = [float(text) for text in column(opened, accuracy)]
    assert values == sorted(values, reverse=True) and len(values) == 9
    press(opened, heads, accuracy)
    assert [float(text) for text in column(opened, accuracy)] == sorted(values)
    against = names.index("vs random")
    head = opened.find_elements("css selector", heads)[against]
    head.send_keys("\ue007")  # Enter
    texts = column(opened, against)
    assert all(texts[:4]) and not any(texts[4:])  # what is not compared stays last
    head.send_keys(" ")
    assert head.find_element("xpath", "..").get_attribute("aria-sort") == "ascending"
    assert column(opened, against)[:4] != texts[:4] and not any(column(opened, against)[4:])
    press(opened, heads, names.index("plan"))
    assert column(opened, 0)[:2] == ["blind", "fastv@2-16"]


def test_the_chart_changes_its_axis_and_hides_methods(opened):
    def titles() -> list[str]:
        return [e.text for e in opened.find_elements("css selector", "figure .chart .title") if e.is_displayed()]

    assert titles() == ["visual tokens, mean over decoder layers"]
    press(opened, ".choice input[value=GFLOPs] + span")
    assert titles() == ["GFLOPs of the prompt, with tower"]
    line = opened.find_elements("css selector", "figure:not([hidden]) .wide .series[data-method='fastv@2'] polyline")[0]
    assert line.is_displayed()
    button = press(opened, ".legend button[data-method='fastv@2']")
    assert not line.is_displayed() and button.get_attribute("aria-pressed") == "false"
    press(opened, ".legend button[data-method='fastv@2']")
    assert line.is_displayed()


def test_the_heat_map_shows_differences(opened):
    def shown() -> list[str]:
        return [e.text for e in opened.find_elements("css selector", ".heat caption") if e.is_displayed()]

    assert shown()[0].startswith("Score, out of 200")
    press(opened, ".choice input[value='difference from full'] + span")
    assert len(shown()) == 1 and shown()[0].startswith("Difference from full")


def test_samples_open_and_follow_the_layer(opened):
    def card(plan: str) -> tuple[str, int, int]:
        """Text of a plan's card, and how many patches are darkened and dotted."""
        script = """
            const item = [...document.querySelectorAll('.cards li')].find((one) => one.querySelector('h4').innerText === arguments[0]);
            const gone = item.querySelector('.gone');
            return [item.innerText, gone ? gone.getAttribute('d').split('M').length - 1 : 0, item.querySelectorAll('.dot').length];
        """
        return tuple(opened.execute_script(script, plan))

    text, gone, dots = card("fastv@2-64")
    assert "✗ wrong: No" in text and "64 visual tokens" in text and (gone, dots) == (13, 0)
    assert "✓ right: Yes" in card("full")[0] and card("full")[1:] == (0, 0)
    assert card("pool-16")[1:] == (0, 2) and card("blind")[1:] == (16, 0)
    slider = opened.find_element("css selector", ".layer input")
    slider.send_keys("\ue012\ue012")  # two layers to the left: layer 1, before any stage
    text, gone, _ = card("fastv@2-64")
    assert "576 visual tokens" in text and gone == 0
    assert opened.find_element("css selector", ".layer output").text == "layer 1"
    press(opened, ".viewer .choice span", 1)
    assert (
        "exist" in opened.find_element("css selector", ".question").text
        and "0000.png#2" in opened.find_element("css selector", ".question").text
    )
    assert "layer 1" == opened.find_element("css selector", ".layer output").text  # the layer stays
    press(opened, ".strip button", 1)
    assert "count/0001.png#1" in opened.find_element("css selector", ".question").text
    pressed = [button.get_attribute("aria-pressed") for button in opened.find_elements("css selector", ".strip button")]
    assert pressed == ["false", "true"]


def test_a_handler_that_got_in_does_not_run(browser, page, tmp_path):
    """Escaping is the first wall; the policy is the second, tried here without the first."""
    handlers = "<img src=x onerror='document.title = 1'><script>document.title = 2</script>"
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("<main>", f"<main>{handlers}"))
    browser.get(broken.as_uri())
    assert browser.title == "llava-shapes-v1 on MME"
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))
    assert len(column(browser, 0)) == 9  # the page's own script and style work all the same


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_it_looks_like_a_page(opened, width, scheme):
    """Not blank, of the scheme that was asked for, and no wider than the screen; the accent colour of a chart is there."""
    look(opened, width, scheme)
    picture = photograph(opened)
    assert picture.shape[1] == width and picture.shape[0] > 1500
    assert len(np.unique(picture.astype(int) @ [65536, 256, 1])) > 100
    assert (np.median(picture) > 200) if scheme == "light" else (np.median(picture) < 60)
    assert opened.execute_script("return document.documentElement.scrollWidth") == width
    drawn = [chart.is_displayed() for chart in opened.find_elements("css selector", "figure:not([hidden]) .chart")]
    assert drawn == ([True, False] if width == 1280 else [False, True])
    (middle,) = opened.find_elements(
        "css selector", f"figure:not([hidden]) .{'wide' if width == 1280 else 'narrow'} .whisker"
    )[:1]
    place = opened.execute_script(
        "const r = arguments[0].getBoundingClientRect(); return [r.x + scrollX, r.y + scrollY, r.height]", middle
    )
    assert place[2] > 0 and place[1] < picture.shape[0]
