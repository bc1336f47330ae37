"""Recorded samples: which questions are chosen, patches led back through the stages, and a real pass over a tiny model."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from llava.eval.ask.record import (
    kept_patches,
    left_after,
    record_samples,
    runs_without_samples,
    sampled_questions,
    tower_view,
)
from llava.eval.ask.subject import Generation, LlavaSubject
from llava.eval.results import samples
from llava.eval.results.folder import Run
from llava.eval.results.samples import from_mask, read
from llava.eval.tasks.base import Example, get_task
from llava.reduction import Place, plan_from, plan_name
from llava.shapes.export import export

PLANS = ["full", "fastv@2:64", "random@prompt:0.5+fastv@2:32", "pool:16", "blind", "downsample:64"]


def kept(indices: list[int], site: str = "layer", place: Place = Place.DROP, slots: int = 10) -> SimpleNamespace:
    """A record, as far as it is looked at."""
    rows = [indices] if indices and isinstance(indices[0], int) else indices
    counted = torch.tensor(rows)
    return SimpleNamespace(kept=counted, onward=counted, site=site, place=place, chosen=torch.zeros(len(rows), slots))


def test_stages_are_led_back_to_patches():
    """Ten patches; the first stage keeps 1, 3, 5, 7, 9; the second, counting among those, 0 and 4: patches 1 and 9."""
    found = kept_patches([kept([1, 3, 5, 7, 9]), kept([0, 4, -1])], 10)
    assert [list(each) for each in found] == [[1, 3, 5, 7, 9], [1, 9]]


def test_a_merge_that_changes_the_order_is_followed():
    """Patches 1, 3, 5 go on as 5, 1, 3; a stage that then keeps the first two keeps 5 and 1."""
    first = kept([1, 3, 5])
    first.onward = torch.tensor([[5, 1, 3]])
    assert [sorted(each) for each in kept_patches([first, kept([0, 1])], 10)] == [[1, 3, 5], [1, 5]]


def test_zero_filling_moves_the_kept_to_the_front():
    """Patches 2 and 7 now lie in slots 0 and 1; a stage that keeps slots 1 and 5 keeps patch 7 and one of the zeros."""
    found = kept_patches([kept([2, 7], place=Place.ZERO_FILL), kept([1, 5])], 10)
    assert [list(each) for each in found] == [[2, 7], [7]]


def test_stages_before_the_decoder_count_pictures_and_the_others_prompts():
    before, after = kept([[0, 1], [8, 9]], site="features"), kept([[0, 1], [0, 1], [1, -1]])
    assert [list(each) for each in kept_patches([before, after], 10, row=2, image=1)] == [[8, 9], [9]]


def example(category: str, picture: int, question: int, image: bool = True) -> Example:
    name = f"{category}/{picture}"
    return Example(f"{name}#{question}", name, name, Path(name) if image else None, "", "", category)


def test_questions_are_chosen_from_all_categories_in_turn():
    """Five pictures of three categories, one of which has a single picture: 2, 2 and 1, and two questions of each."""
    asked = [example("a", p, q) for p in range(4) for q in range(3)]
    asked += [example("b", p, q) for p in range(4) for q in range(3)] + [example("c", 0, q) for q in range(3)]
    asked += [example("d", 0, 0, image=False)]
    found = sampled_questions(asked, pictures=5)
    assert [one.key for one in found] == [f"{p}#{q}" for p in ("a/0", "a/1", "b/0", "b/1", "c/0") for q in (0, 1)]
    assert len(sampled_questions(asked, pictures=100)) == 18
    assert (
        sampled_questions(asked, pictures=0) == []
        and sampled_questions([example("d", 0, 0, image=False)], pictures=12) == []
    )


@pytest.fixture(scope="module")
def subject(llava15) -> LlavaSubject:
    return LlavaSubject(llava15.tokenizer, llava15.model, llava15.image_processor, "vicuna_v1")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    task = get_task("mme")(export("mme", tmp_path_factory.mktemp("data") / "MME", images=1))
    task.examples = task.examples[:6]
    return task


@pytest.fixture(scope="module")
def recorded(subject, task, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    runs = [(plan_from("" if spec == "full" else spec), root) for spec in PLANS]
    opened = [(plan, Run(root / plan_name(plan), {})) for plan, root in runs]
    record_samples(subject, task, opened, pictures=2, batch_size=3)
    for _, run in opened:
        run.__exit__()
    return root


def test_every_plan_stores_what_it_kept_of_the_same_questions(recorded):
    held = {folder.name: read(folder) for folder in recorded.iterdir() if folder.name != "pictures"}
    assert len(held) == len(PLANS)
    for name, entries in held.items():
        assert [entry["key"] for entry in entries] == [
            f"{p}#{q}" for p in ("existence/0001.png", "count/0001.png") for q in (1, 2)
        ]
        assert len({entry["picture"] for entry in entries}) == 2 and all(entry["layers"] for entry in entries)
        assert {entry["patches"] for entry in entries} == {8 if name == "downsample-64" else 24}
    assert len(list((recorded / "pictures").iterdir())) == 2  # the same for all plans

    def counts(name: str) -> list[list[int]]:
        return [[len(from_mask(s["kept"], e["patches"] ** 2)) for s in e["stages"]] for e in held[name]]

    assert counts("full") == [[]] * 4 and counts("fastv@2-64") == [[64]] * 4 and counts("blind") == [[0]] * 4
    assert counts("random@prompt-0.5+fastv@2-32") == [[288, 32]] * 4 and counts("downsample-64") == [[64]] * 4
    two = held["random@prompt-0.5+fastv@2-32"][0]["stages"]
    assert [(stage["stage"], stage["layer"]) for stage in two] == [("random@prompt:0.5", None), ("fastv@2:32", 2)]
    assert held["pool-16"][0]["stages"][0]["merges"] and not held["fastv@2-64"][0]["stages"][0]["merges"]


def test_a_batch_stores_what_each_question_alone_would(recorded, subject, task):
    plan = plan_from("fastv@2:64")
    for asked, entry in zip(sampled_questions(task.examples, 2), read(recorded / "fastv@2-64")):
        image = Image.open(asked.image).convert("RGB")
        (feature,) = subject.encode([image], plan)
        subject.answer([task.prompt(asked)], [feature], plan, Generation(max_new_tokens=1))
        ((_, left),) = left_after(plan, subject.model.last_trace, 576)
        assert from_mask(entry["stages"][0]["kept"], 576) == left.tolist()


def test_a_run_lacks_samples_until_they_are_stored_and_again_under_a_new_configuration(recorded):
    run = (plan_from("fastv@2:64"), SimpleNamespace(folder=recorded / "fastv@2-64"))
    assert runs_without_samples([run]) == []
    later = (run[1].folder / samples.FILE).stat().st_mtime + 5
    os.utime(run[1].folder / "config.yaml", (later, later))
    assert runs_without_samples([run]) == [run]


def test_a_picture_that_cannot_be_read_is_left_out(subject, task, tmp_path):
    (tmp_path / "torn.png").write_text("not a picture")
    torn = [Example("torn#1", "torn", "torn", tmp_path / "torn.png", "What?", "Yes", "existence")]
    part = SimpleNamespace(examples=torn + task.examples[:1], prompt=task.prompt)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("")
    record_samples(subject, part, [(plan_from("pool:16"), SimpleNamespace(folder=tmp_path / "run"))], pictures=12)
    assert [entry["key"] for entry in read(tmp_path / "run")] == [task.examples[0].key]


def test_several_crops_have_no_grid(llava16, task, tmp_path):
    crops = LlavaSubject(llava16.tokenizer, llava16.model, llava16.image_processor, "vicuna_v1")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("")
    part = SimpleNamespace(examples=task.examples[:1], prompt=task.prompt)
    record_samples(crops, part, [(plan_from("fastv@2:16"), SimpleNamespace(folder=tmp_path / "run"))], pictures=12)
    (entry,) = read(tmp_path / "run")
    assert entry["patches"] is None and entry["stages"] == [] and (tmp_path / entry["picture"]).is_file()


def test_the_picture_is_what_the_tower_sees(subject):
    wide = Image.new("RGB", (200, 100), (255, 0, 0))
    picture = tower_view(subject, wide)
    assert picture.shape == (336, 336, 3)
    assert np.allclose(picture[168, 168], [1, 0, 0], atol=0.02)  # the middle is red, the padding is not
    assert not np.allclose(picture[5, 168], [1, 0, 0], atol=0.2)
