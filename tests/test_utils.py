"""Logging, and the function that must not do what LLaVA's did."""

from __future__ import annotations

import torch

from llava.utils import build_logger, disable_torch_init, installed


def test_modules_made_afterwards_are_initialised():
    disable_torch_init()
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 64)
    assert 0 < layer.weight.abs().max() <= 1 / 8 and torch.equal(torch.nn.LayerNorm(4).weight, torch.ones(4))


def test_logger_writes_once(tmp_path):
    for _ in range(2):
        logger = build_logger("llava.test", "run.log", tmp_path)
    logger.info("hello")
    assert (tmp_path / "run.log").read_text().count("hello") == 1
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def test_installed():
    assert installed("torch") and installed("google.protobuf")
    assert not installed("no_such_package") and not installed("no_such_package.part")
