"""The pages about hosts: the table is generated, the description of a new host runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from llava.model.hosts import HOSTS
from llava.model.hosts.parts import Parts
from llava.model.hosts.table import host_rows, host_table
from tests.model.hosts.worlds import SOME, WORLDS, build, inputs_of

DOCS = Path(__file__).parents[3] / "docs"


def test_the_table_is_the_one_that_the_command_prints():
    page = (DOCS / "hosts.md").read_text(encoding="utf-8")
    assert host_table() in page and len(host_rows()) == len(HOSTS)


def test_every_host_is_tested():
    tested = {world.config().model_type for world in WORLDS.values()}
    assert tested == set(HOSTS)


def test_the_description_of_a_new_host_runs():
    page = (DOCS / "add_a_host.md").read_text(encoding="utf-8")
    code = re.search(r"<!-- add a host, runs as a test -->\n```python\n(.*?)```", page, re.DOTALL)
    assert code
    model = build("llava")
    inputs = inputs_of("llava", model, SOME)
    model.config.model_type = "newcomer"
    names = {"model": model, "inputs": inputs}
    with torch.no_grad():
        exec(code[1], names)
        stock = model(**inputs).logits
    assert names["logits"].shape == stock.shape and not torch.equal(names["logits"], stock)


@pytest.mark.parametrize("name", HOSTS)
def test_every_host_finds_its_parts(name):
    world = next(key for key, value in WORLDS.items() if value.config().model_type == name)
    parts = Parts.of(build(world), HOSTS[name])
    assert len(parts.blocks) == {"qwen2_vl": 2, "qwen2_5_vl": 2, "qwen3_vl": 4}.get(name, 3)
    assert parts.has_class == (name in ("llava", "llava_next", "internvl"))
    assert (parts.projector is None) == (HOSTS[name].projector is None)
