"""The leaderboard's page: self-contained, and filtered, sorted and opened in a headless browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from llava.eval.leaderboard.board import build
from llava.eval.leaderboard.page import write_page
from llava.eval.leaderboard.page.front import CHART_AXES, make_front, steps
from llava.eval.tasks.gqa import Gqa
from tests.eval.leaderboard.boards import KEYS, make_board
from tests.eval.screens import look, photograph


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("board")
    make_board(root, "shapes", samples=KEYS[:3])
    make_board(root, "shapes", "gqa", Gqa)
    make_board(root, "things")
    return write_page(build([root]), root / "leaderboard.html")


def test_nothing_is_fetched_and_nothing_else_runs(page):
    text = page.read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "style=" not in text
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:|//|file:)""", text)


def test_every_cell_links_to_its_configuration_and_holds_its_pictures(page):
    (shapes,) = [
        json.loads(text)
        for text in re.findall(r'<script type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)
        if "existence/0000.png#1" in text
    ]
    assert len(shapes["pictures"]) == 2  # of three questions, two pictures
    for cell in shapes["cells"].values():
        assert bool(cell["configs"]) != bool(cell["reason"]), cell["title"]
        for _, way in cell["configs"]:
            assert (page.parent / way.replace("%40", "@").replace("%3D", "=")).is_file()
    (divprune,) = [cell for cell in shapes["cells"].values() if cell["title"] == "divprune at 64"]
    assert [answer["stages"][0]["kept"] for answer in divprune["answers"]] == ["8420", "8420"]
    assert {head for head, _ in divprune["figures"]} >= {"entering", "GFLOPs", "KV MB", "vs random", "group A % [95 %]"}


def test_steps_go_up_only_and_end_at_the_edge():
    points = [(30.0, 40.0), (10.0, 80.0), (20.0, 90.0), (10.0, 95.0), (40.0, 60.0)]
    assert steps(points, 100) == "M10.0 80.0H30.0V40.0H100"
    assert steps([], 100) == ""


def test_a_chart_needs_two_runs(page):
    entries = list(enumerate(build([page.parent / "things"]).entries))
    assert make_front(entries, CHART_AXES[0], "wide", 1080, 460) is not None
    alone = [(number, entry) for number, entry in entries if entry.name in ("full", "fastv")]
    assert make_front(alone, CHART_AXES[0], "wide", 1080, 460) is None


# In a browser


@pytest.fixture
def opened(browser, page):
    """The page at 1280 x 900 and light; what the browser complained of is asserted afterwards."""
    browser.get_log("browser")
    look(browser, 1280, "light")
    browser.get(page.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def shown(browser, css: str) -> list[str]:
    """The text of the elements that are to be seen."""
    script = """
        const seen = (one) => one.checkVisibility() && !one.closest("[hidden]");  // the former is true of hidden SVG
        return [...document.querySelectorAll(arguments[0])].filter(seen).map((one) => one.innerText ?? one.textContent);
    """
    return browser.execute_script(script, css)


def press(browser, css: str, number: int = 0):
    element = [one for one in browser.find_elements("css selector", css) if one.is_displayed()][number]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    element.click()
    return element


def choose(browser, name: str, value: str) -> None:
    script = "const s = document.querySelector(`.filters [name=${arguments[0]}]`); s.value = arguments[1]; s.dispatchEvent(new Event('input', {bubbles: true}))"
    browser.execute_script(script, name, value)


def test_one_board_is_shown_until_others_are_chosen(opened):
    assert shown(opened, "h2.board") == ["llava-shapes on gqa"]
    choose(opened, "task", "mme")
    assert shown(opened, "h2.board") == ["llava-shapes on mme"]
    choose(opened, "model", "")
    assert shown(opened, "h2.board") == ["llava-shapes on mme", "llava-things on mme"]
    choose(opened, "model", "llava-things")
    choose(opened, "task", "gqa")
    assert shown(opened, "h2.board") == [] and shown(opened, ".nothing") == ["There is no such model on that task."]


def test_methods_means_and_kinds_are_filtered_everywhere(opened):
    choose(opened, "task", "mme")
    names = shown(opened, ".matrix tbody th")
    assert names[:2] == ["full", "blind"] and len(names) == 9
    press(opened, ".filters input[value=control] + span")
    assert set(shown(opened, ".matrix tbody th")) == {"divprune", "scope", "fastervlm", "hired", "fastv"}
    assert len(shown(opened, "figure:not([hidden]) .wide .dot")) == 9
    press(opened, ".filters input[value='16'] + span")
    assert shown(opened, ".matrix thead th") == ["method", "64"]
    assert len(shown(opened, "figure:not([hidden]) .wide .dot")) == 5
    assert {row.split("\t")[1] for row in shown(opened, "table.leaderboard tbody tr[data-mean]")} == {"64"}
    search = opened.find_element("css selector", ".filters input[type=search]")
    search.send_keys("FAST")
    assert set(shown(opened, ".matrix tbody th")) == {"fastervlm", "fastv"}


def test_the_front_follows_the_runs_that_are_shown(opened):
    choose(opened, "task", "mme")
    front = next(
        one for one in opened.find_elements("css selector", "figure:not([hidden]) .wide .front") if one.is_displayed()
    )
    before = front.get_attribute("d")
    for name in ("before", "inside"):
        press(opened, f".filters input[value={name}] + span")
    assert front.get_attribute("d") != before and front.get_attribute("d").startswith("M")


def test_the_table_shows_the_figure_that_is_chosen(opened):
    choose(opened, "task", "mme")
    press(opened, ".choice input[value='mean tokens'] + span")
    (line,) = [text for text in shown(opened, ".matrix tbody tr") if text.startswith("divprune")]
    assert re.findall(r"\d+\.\d", line) == ["64.0", "16.0"]


def test_runs_are_sorted(opened):
    choose(opened, "task", "mme")
    heads = [text.split("\n")[0] for text in shown(opened, "article table.leaderboard thead th")]
    press(
        opened, "article table.leaderboard thead button", next(i for i, head in enumerate(heads) if "accuracy" in head)
    )
    place = next(i for i, head in enumerate(heads) if "accuracy" in head)
    values = [
        float(row.split("\t")[place].split("\n")[0]) for row in shown(opened, "article table.leaderboard tbody tr")
    ]
    assert values == sorted(values, reverse=True) and len(values) == 15


def test_a_cell_opens_with_its_figures_links_and_pictures(opened):
    choose(opened, "task", "mme")
    control = opened.find_element("xpath", "//article[@data-task='mme'][1]//tr[@data-name='divprune']/td[1]/button")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", control)
    control.click()
    (text,) = shown(opened, "dialog")
    assert "divprune at 64" in text and "llava-shapes on mme; before the language model" in text
    assert "vs random" in text and "Is it so in existence/0000.png#1? (Yes)" in text
    link = opened.find_element("css selector", "dialog a")
    assert link.get_attribute("href").endswith("/shapes/mme/divprune-64/config.yaml")
    gone = opened.find_elements("css selector", "dialog .cards .gone")
    assert len(gone) == 2 and gone[0].get_attribute("d").count("M") == 13
    press(opened, "dialog .close")
    assert shown(opened, "dialog") == []


def test_an_empty_cell_says_why(opened):
    choose(opened, "task", "mme")
    press(opened, ".matrix button.none")
    assert "There is no run: its nearest mean is 41.1 tokens, with fastv@1:0." in shown(opened, "dialog")[0]
    press(opened, "dialog .close")
    press(opened, "summary")
    assert shown(opened, "details li") == ["its nearest mean is 41.1 tokens, with fastv@1:0: fastv at 16."]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_it_fits_the_screen_in_light_and_dark(opened, width, scheme):
    look(opened, width, scheme)
    picture = photograph(opened)
    assert picture.shape[1] == width and picture.shape[0] > 1500
    assert (np.median(picture) > 200) if scheme == "light" else (np.median(picture) < 60)
    assert opened.execute_script("return document.documentElement.scrollWidth") == width
    drawn = [
        chart.is_displayed()
        for chart in opened.find_elements("css selector", "article:not([hidden]) figure:not([hidden]) .chart")
    ]
    assert drawn == ([True, False] if width == 1280 else [False, True])
