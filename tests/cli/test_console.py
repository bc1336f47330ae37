"""The two ends of a command: exit statuses, and what Ctrl-C says."""

from __future__ import annotations

from argparse import ArgumentParser

import pytest

from llava.cli.console import STOPPED, launch


@pytest.fixture
def parser():
    parser = ArgumentParser()
    parser.add_argument("--count", type=int, default=1)
    return parser


def test_work_gets_what_was_read(parser):
    counts = []
    assert launch(parser, lambda given: counts.append(given.count), ["--count", "3"]) == 0 and counts == [3]


@pytest.mark.parametrize("error", [ValueError("no such plan"), FileNotFoundError("no such file")])
def test_bad_input_is_one_line_and_status_two(parser, caplog, error):
    def work(_):
        raise error

    assert launch(parser, work, []) == 2
    assert str(error) in caplog.text and "Traceback" not in caplog.text


def test_a_defect_is_not_called_bad_input(parser):
    with pytest.raises(TypeError):
        launch(parser, lambda given: given.count(), [])


def test_ctrl_c_says_how_to_go_on_or_is_raised(parser, caplog):
    def work(_):
        raise KeyboardInterrupt

    assert launch(parser, work, []) == 130 and STOPPED in caplog.text
    with pytest.raises(KeyboardInterrupt):
        launch(parser, work, [], stopped=None)
