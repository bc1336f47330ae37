"""Plans for engines that prune before the language model: what the model keeps, with a count that is known beforehand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import llava
from llava.reduction import get_method, kept_count, kept_indices, kept_tokens, method_names, plan_from, qualifies
from llava.reduction.export import _forms, engine_plan, serving_table

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
FORMS = {str(stage): stage for name in method_names() for stage in _forms(name)}
BUDGETED = [form for form, stage in FORMS.items() if stage.reducer.wants_keep]
WIDTH = 16


def pictures(tokens: int, count: int = 1, seed: int = 0) -> torch.Tensor:
    """Features (G, N, D) as random as can be."""
    return torch.randn(count, tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


def words(seed: int = 9) -> torch.Tensor:
    return torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(seed))


def with_budget(form: str, budget: str) -> str:
    return form.replace(":64", f":{budget}")


def test_the_named_methods_qualify():
    named = {"divprune", "cdpruner", "eadp", "cenprune", "grid", "pool"}
    assert named <= {stage.name for stage in FORMS.values()}


@pytest.mark.parametrize("form", FORMS)
def test_the_model_keeps_the_same(form, llava15):
    """Indices and tokens are those that the model's own splice makes of the same picture and question."""
    plan = with_budget(form, "16")
    case = llava15.cases()[0]
    inputs, model = llava15.inputs(case), llava15.model
    ids, images = inputs["input_ids"], inputs["images"]
    with torch.no_grad():
        spliced = model.splice(ids, images=images, reduction=engine_plan(plan))
        record = model.last_trace[-1]
        embedded = model.encode_images(images)[0]
        after = int((ids[0] == -200).nonzero()) + 1
        side = model.get_vision_tower().num_patches_per_side
        tokens, indices, positions = kept_tokens(
            embedded,
            (side, side),
            model.get_model().embed_tokens(ids[0, after:]),
            plan,
            seeds=model.image_seeds(images),
        )
    assert indices.tolist() == record.kept[0].tolist()
    raster = record.onward[0].argsort()
    assert torch.equal(tokens, spliced.inputs_embeds[0][spliced.visual[0] > 0][raster])
    assert positions.tolist() == [[0, index // side, index % side] for index in indices.tolist()]


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(sorted(FORMS)),
    grid=st.one_of(st.tuples(st.integers(1, 7), st.integers(1, 7)), st.tuples(*[st.integers(1, 4)] * 3)),
    share=st.one_of(st.floats(0, 1), st.integers(0, 20)),
)
def test_the_count_is_known_beforehand(form, grid, share):
    budget = str(share) if isinstance(share, int) else f"{share:.6f}"
    tokens = torch.Size(grid).numel()
    try:
        stage = plan_from(with_budget(form, budget))
        count = kept_count(grid, stage)
        kept, positions = kept_indices(pictures(tokens)[0], grid, words(), stage, seeds=[3])
    except ValueError as error:
        assert re.search("keep=.* (exceeds|at least|square cells)|keep=.* must be", str(error)), error
        return
    assert len(kept) == count and kept.tolist() == sorted(set(kept.tolist()))
    assert kept.dtype == positions.dtype == torch.int64 and positions.shape == (count, 3)
    frames, height, width = (1, *grid)[-3:]
    assert (positions @ torch.tensor([height * width, width, 1])).equal(kept)
    assert (positions < torch.tensor([frames, height, width])).all() and (positions >= 0).all()
    if frames == 1:
        assert kept_count(tokens, stage) == count


@pytest.mark.parametrize("grid", [(6, 5), (3, 4, 5)])
@pytest.mark.parametrize("form", FORMS)
def test_a_batch_is_each_picture_alone(form, grid):
    grid = (6, 6) if form.startswith("m3") else grid
    plan, several = with_budget(form, "25%"), pictures(torch.Size(grid).numel(), 3)
    questions = torch.stack([words(seed) for seed in range(3)])
    together = kept_tokens(several, grid, questions, plan, seeds=[5, 6, 7])
    for number in range(3):
        alone = kept_tokens(several[number], grid, questions[number], plan, seeds=[5 + number])
        assert torch.equal(together[1][number], alone[1]) and torch.equal(together[2][number], alone[2])
        assert torch.allclose(together[0][number], alone[0], atol=1e-5)


def test_a_video_shares_its_budget_among_frames_or_is_one_whole():
    video = pictures(3 * 16)[0]
    kept, _ = kept_indices(video, (3, 4, 4), None, "grid:8")
    assert [int((kept // 16 == frame).sum()) for frame in range(3)] == [3, 3, 2]
    still = torch.cat([video[:16]] * 2)
    whole, positions = kept_indices(still, (2, 4, 4), None, "divprune:12")
    assert len(set((whole % 16).tolist())) == 12, "the second time a patch is seen it says nothing new"
    assert kept_indices(still, (2, 4, 4), None, "divprune@projected:12")[0].tolist()[6:] == [
        index + 16 for index in kept_indices(still[:16], (4, 4), None, "divprune:6")[0].tolist()
    ]
    assert positions[:, 0].tolist() == (whole // 16).tolist()


def test_stages_follow_one_another():
    features = pictures(30, 2)
    first, _ = kept_indices(features, (5, 6), words(), "cdpruner:12,relevance=embeddings")
    chain, _ = kept_indices(features, (5, 6), words(), "cdpruner:12,relevance=embeddings+divprune:4")
    for picture in range(2):
        again, _ = kept_indices(features[picture][first[picture]], (1, 12), None, "divprune:4")
        assert chain[picture].tolist() == first[picture][again].tolist()
    assert kept_count(30, "cdpruner:12,relevance=embeddings+divprune:25%") == 3


def test_a_count_that_is_not_the_promised_one_is_an_error():
    assert (
        len(kept_indices(pictures(36)[0], (6, 6), None, "m3:5,mode=code")[0]) == kept_count(36, "m3:5,mode=code") == 9
    )
    with pytest.raises(ValueError, match="keeps 12 of .*, not the 9"):
        kept_indices(pictures(48)[0], (6, 8), None, "m3:10,mode=code")


def test_no_plan_keeps_all():
    kept, positions = kept_indices(pictures(6)[0], (2, 3))
    assert kept.tolist() == list(range(6)) and positions[:, 2].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ("fastv@2:64", "attention of the decoder"),
        ("divprune@2:64", "write divprune@prompt"),
        ("pyramiddrop", "several stages"),
        ("scope:25%", "class token"),
        ("scope:25%,saliency=mean_attention", "queries and keys of the tower"),
        ("cdpruner:64", "CLIP's text tower"),
        ("prumerge:64", "queries and keys"),
        ("downsample:64", "before the tower's features"),
        ("tome:64", "before the tower's features"),
        ("merger:64", "before the projector"),
        ("divprune@features:64", "leave @features out"),
        ("custom_selection@prompt:64,cover=0.5", "the picture decides"),
        ("divprune:64+fastv@2:16", "fastv@2:16 cannot run"),
    ],
)
def test_what_cannot_run_says_why_and_what_can(plan, reason):
    for call in (lambda: kept_count(576, plan), lambda: kept_indices(pictures(576)[0], (24, 24), words(), plan)):
        with pytest.raises(ValueError, match=re.escape(reason)) as error:
            call()
        assert "these can: " in str(error.value) and "divprune" in str(error.value)
    assert not qualifies(plan)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((pictures(6)[0], (2, 4), None, "divprune:2"), "6 tokens, but grid="),
        ((pictures(6)[0], (6,), None, "divprune:2"), "must be (rows, columns)"),
        ((pictures(6)[0], (2, 0), None, "divprune:2"), "of at least 1 each"),
        ((torch.zeros(6), (2, 3), None, "divprune:2"), "must be (N, D)"),
        ((torch.zeros(0, 6, 2), (2, 3), None, "divprune:2"), "no picture"),
        ((pictures(6)[0], (2, 3), None, "divprune:7"), "exceeds the 6 image tokens"),
        ((pictures(6)[0], (2, 3), None, "cdpruner:2,relevance=embeddings"), "give question="),
        ((pictures(6)[0], (2, 3), torch.zeros(4, 3), "cdpruner:2,relevance=embeddings"), "must be (T, D)"),
        ((pictures(6)[0], (2, 3), None, "random:2"), "seeds=None"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kept_indices(*arguments)


@pytest.mark.parametrize("tokens", [0, -1, True])
def test_a_count_needs_tokens(tokens):
    with pytest.raises(ValueError, match="tokens="):
        kept_count(tokens, "divprune:1")


def test_the_page_has_the_table():
    assert serving_table() in PAGE.read_text(), (
        'in docs/serving.md put what python -c "from llava.reduction.export import serving_table; print(serving_table())" prints'
    )


def test_the_table_has_every_method_once():
    names = re.findall(r"^\| `(\w+)` \|", serving_table(), flags=re.M)
    assert sorted(names) == method_names()
    assert all(get_method(stage.name) is type(stage.reducer) for stage in FORMS.values())


def test_the_page_s_example_runs():
    (code,) = re.findall(r"<!-- kept_indices, runs as a test -->\n```python\n(.+?)```", PAGE.read_text(), flags=re.S)
    names: dict = {}
    exec(compile(code, str(PAGE), "exec"), names)
    assert names["indices"].shape == (64,) and names["positions"].shape == (64, 3)
    assert llava.kept_indices is kept_indices and llava.qualifies("divprune:64")
