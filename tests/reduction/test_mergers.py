"""The learnable mergers: what they are untrained, what learns, what a training step and evaluation agree on, what they refuse."""

from __future__ import annotations

import json

import pytest
import torch

from llava.reduction import Evidence, plan_from
from llava.reduction.aggregate import CrossAttention
from llava.reduction.learned.trained import load_trained, save_trained
from llava.reduction.mergers import (
    ANNEALED,
    LearnableTokenMerger,
    LearnableTokenMergerV1,
    LearnableTokenMergerV3,
    farthest,
    make_merger,
    rank_preference,
)
from llava.reduction.methods.anywhere.merger import TrainedMerger

D, T, N = 24, 40, 64
WIDTHS = {
    "simple": {"d_model": D, "num_heads": 4},
    "question_aware": {"d_vision": D, "d_text": T, "d_internal": 16, "num_heads": 4},
    "fixed_pooling": {"d_vision": D, "d_text": T, "d_internal": 16, "num_heads": 4, "num_tokens": N},
}
KINDS = list(WIDTHS)


def build(kind: str, seed: int = 0, **more):
    torch.manual_seed(seed)
    return make_merger(kind, **{**WIDTHS[kind], "merge_ratio": 16, **more})


def world(batch: int = 2, seed: int = 1):
    torch.manual_seed(seed)
    return torch.randn(batch, N, D), torch.randn(batch, 5, T)


def moved(merger):
    """The merger after a few steps that move every parameter, so that nothing is at its start any more."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in merger.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return merger


def call(merger, vision, question, **more):
    return merger(vision, question if merger.needs_question else None, **more)


def test_the_names_of_the_document():
    assert LearnableTokenMergerV1 is LearnableTokenMerger
    assert LearnableTokenMergerV3(32, 32, 16, num_heads=4).pool_queries.shape == (288, 16)
    with pytest.raises(ValueError, match="merger_type='fixed' is unknown; choose one of simple, question_aware, fixed"):
        make_merger("fixed")


@pytest.mark.parametrize("kind", ["simple", "fixed_pooling"])
def test_untrained_it_is_custom_selection_at_any_number(kind):
    vision, question = world()
    merger = build(kind, num_heads=1).eval()
    for keep in (1, 4, 16, 30, 63):
        found = call(merger, vision, question, keep=keep)
        (stage,) = plan_from(f"custom_selection@features:{keep}")
        kept = stage.reducer.select(vision, Evidence(torch.zeros(2)), keep).sort(dim=1).values
        assert torch.equal(found["merge_indices"], kept)
        torch.testing.assert_close(found["merged_features"], stage.reducer.aggregate(vision, kept, None))
        (bare,) = plan_from(f"merger:{keep}")
        assert torch.equal(bare.reducer.select(vision, evidence := Evidence(torch.zeros(2)), keep), kept)
        torch.testing.assert_close(bare.reducer.aggregate(vision, kept, evidence), found["merged_features"])


@pytest.mark.parametrize("kind", KINDS)
def test_weights_say_how_much_of_every_token_is_in_a_merged_one(kind):
    vision, question = world()
    found = call(moved(build(kind)).eval(), vision, question)
    weights = found["merge_weights"]
    assert weights.shape == (2, 16, N) and (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 16))
    residual = found["merge_residual"]
    assert (residual is None) == (kind != "fixed_pooling")
    mixture = weights @ vision if residual is None else weights @ vision + residual
    torch.testing.assert_close(found["merged_features"], mixture)
    untrained = build(kind).eval()
    found = call(untrained, vision, question)
    torch.testing.assert_close(found["merged_features"], found["merge_weights"] @ vision)


def test_a_share_raises_what_it_says():
    """V1: w_mn rises with share(x_n). One direction decides it, and tokens far along it weigh more in every mixture."""
    vision, _ = world()
    merger = build("simple", num_heads=1).eval()
    even = merger(vision)["merge_weights"]
    direction = torch.nn.functional.normalize(torch.randn(D), dim=0)
    with torch.no_grad():
        merger.share.weight.copy_(3 * direction)
    uneven = merger(vision)["merge_weights"]
    along = merger.compared(vision, None, None) @ direction  # (B, N)
    expected = (even.log() + 3 * along[:, None]).softmax(-1)
    torch.testing.assert_close(uneven, expected)


def test_the_straight_through_gradient_is_that_of_a_sigmoid_over_tau():
    """d merged / d logit = sigmoid'((l - l_(M+1)) / tau) / tau (merged - mean), by hand at tau = 0.25."""
    vision, _ = world(batch=1)
    merger = build("simple", merge_ratio=4).train()
    merger.temperature.fill_(0.25)
    logits = torch.randn(1, N, requires_grad=True)
    order = logits.argsort(dim=1, descending=True)
    chosen = order[:, :4].sort(dim=1).values
    merged = torch.randn(1, 4, D)
    out = merger._straight_through(merged, vision, logits, order, chosen)
    assert torch.equal(out, merged)
    weight = torch.randn(1, 4, D)
    (out * weight).sum().backward()
    gap = (logits.detach().gather(1, chosen) - logits.detach().gather(1, order[:, 4:5])) / 0.25
    slope = gap.sigmoid() * (1 - gap.sigmoid()) / 0.25
    expected = slope * (weight * (merged - vision.mean(1, keepdim=True))).sum(-1)
    torch.testing.assert_close(logits.grad.gather(1, chosen), expected)


def test_v3_gives_each_token_the_query_of_its_place_in_the_order_of_choice():
    """Query m belongs to the m-th farthest token, wherever that stands in the picture."""
    vision, question = world()
    merger = moved(build("fixed_pooling")).eval()
    order = farthest(vision, 16)
    few = call(merger, vision, question, keep=5)
    changed = torch.zeros(2, 5, dtype=torch.bool)
    with torch.no_grad():
        merger.pool_queries[2] += 3
    difference = (call(merger, vision, question, keep=5)["merged_features"] - few["merged_features"]).abs().amax(-1)
    for row in range(2):
        third = (few["merge_indices"][row] == order[row, 2]).nonzero()[0, 0]
        changed[row, third] = True
    assert ((difference > 1e-3) == changed).all()


def test_early_ranks_are_preferred_and_late_ones_alike():
    preference = rank_preference(torch.tensor([[3, 0, 2]]), 6)
    torch.testing.assert_close(preference, -torch.tensor([[2.0, 4, 3, 1, 4, 4]]).log())


def test_the_farthest_are_the_same_under_autocast():
    vision, _ = world()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = farthest(vision, 40)
    assert torch.equal(rounded, farthest(vision, 40)) and len(set(rounded[0].tolist())) == 40


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind):
    vision, question = world()
    merger = moved(build(kind)).train()
    torch.manual_seed(0)
    target = torch.randn(2, 16, D)
    (call(merger, vision, question)["merged_features"] - target).square().mean().backward()
    silent = [
        name for name, parameter in merger.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert silent == []


def test_the_scorer_learns_which_tokens_are_worth_it():
    """Ten tokens of 64 carry the signal; a loss that needs them teaches the score to choose them."""
    torch.manual_seed(0)
    vision = 0.1 * torch.randn(8, N, D)
    signal = torch.stack([torch.randperm(N)[:10] for _ in range(8)])
    vision.scatter_add_(1, signal[..., None].expand(-1, -1, D), torch.full((8, 10, D), 1.0) * torch.linspace(-1, 1, D))
    merger = build("simple", merge_ratio=10)
    optimiser = torch.optim.Adam(merger.scorer.parameters(), lr=0.01)
    direction = torch.linspace(-1, 1, D)

    def hits():
        merger.eval()
        chosen = merger(vision)["merge_indices"]
        return sum(len(set(a) & set(b)) for a, b in zip(chosen.tolist(), signal.tolist())) / signal.numel()

    before = hits()
    for step in range(120):
        merger.train()
        merger.anneal(step / 120)
        loss = -(merger(vision)["merged_features"] @ direction).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert before < 0.4 and hits() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_once_annealed_training_and_evaluation_compute_the_same(kind):
    vision, question = world()
    merger = moved(build(kind))
    if kind != "fixed_pooling":
        noisy = [call(merger.train(), vision, question)["merge_indices"] for _ in range(2)]
        assert not torch.equal(*noisy)
        merger.anneal(0.25)
        assert float(merger.temperature) == pytest.approx(0.55)
        merger.anneal(0.5)
        assert float(merger.temperature) == pytest.approx(ANNEALED)
        assert "temperature" in merger.state_dict()
    training = call(merger.train(), vision, question)
    evaluated = call(merger.eval(), vision, question)
    assert torch.equal(training["merged_features"], evaluated["merged_features"])
    assert torch.equal(evaluated["merged_features"], call(merger, vision, question)["merged_features"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_each_alone_and_padding_says_nothing(kind):
    vision, question = world()
    merger = moved(build(kind)).eval()
    together = call(merger, vision, question)["merged_features"]
    for row in range(2):
        alone = call(merger, vision[row : row + 1], question[row : row + 1])["merged_features"]
        torch.testing.assert_close(together[row : row + 1], alone)
    padded = torch.cat([question, torch.full((2, 3, T), 7.0)], 1)
    mask = torch.tensor([[True] * 5 + [False] * 3] * 2)
    torch.testing.assert_close(call(merger, vision, padded, question_mask=mask)["merged_features"], together)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_question_matters(kind):
    vision, question = world()
    merger = moved(build(kind)).eval()
    other = merger(vision, question.flip(1) * 2 + 1)["merged_features"]
    assert not torch.allclose(other, merger(vision, question)["merged_features"], atol=1e-3)
    assert merger(vision, question[:, :0])["merged_features"].isfinite().all()


def test_v3_without_a_question():
    vision, question = world()
    merger = build("fixed_pooling", use_question=False)
    assert not merger.needs_question and merger.query_modulator is None
    assert merger(vision)["merged_features"].shape == (2, 16, D)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_is_the_same(kind, tmp_path):
    vision, question = world()
    merger = moved(build(kind)).eval()
    if kind != "fixed_pooling":
        merger.anneal(1.0)
    save_trained(merger, tmp_path, {**WIDTHS[kind], "merge_ratio": 16}, trained_on="nothing")
    again = load_trained(tmp_path)
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert torch.equal(
        call(again, vision, question)["merged_features"], call(merger, vision, question)["merged_features"]
    )
    assert json.loads((tmp_path / "merger.json").read_text())["trained_on"] == "nothing"
    (stage,) = plan_from(f"merger:8,weights={tmp_path}")
    assert str(stage) == f"merger:8,weights={tmp_path}" and stage == plan_from(str(stage))[0]
    kept = stage.reducer.select(vision, Evidence(torch.zeros(2), question=(question, torch.ones(2, 5, dtype=bool))), 8)
    assert kept.shape == (2, 8)


def test_another_merger_or_width_is_refused(tmp_path):
    vision, question = world()
    with pytest.raises(FileNotFoundError, match="holds no merger.json; give a folder that"):
        plan_from(f"merger:8,weights={tmp_path}")
    save_trained(build("simple"), tmp_path, WIDTHS["simple"])
    with pytest.raises(ValueError, match="is a trained simple, where one of cross_attention belongs"):
        load_trained(tmp_path, CrossAttention)
    about = json.loads((tmp_path / "merger.json").read_text())
    about["arguments"]["d_model"] = 32
    (tmp_path / "merger.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="(?s)does not fit what merger.json describes.*size mismatch"):
        load_trained(tmp_path)
    (tmp_path / "merger.json").write_text("{}")
    with pytest.raises(ValueError, match="does not describe a merger"):
        load_trained(tmp_path)
    stage = TrainedMerger(module=build("simple"))
    with pytest.raises(
        ValueError, match=r"vision_features of shape \(2, 64, 12\) do not fit this merger of d_vision=24"
    ):
        stage.select(vision[..., :12], Evidence(torch.zeros(2)), 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merge_ratio": 0}, "merge_ratio=0 must be a fraction"),
        ({"merge_ratio": 1.5}, "merge_ratio=1.5 is a fraction above 1"),
        ({"merge_ratio": True}, "merge_ratio=True must be"),
        ({"num_heads": 5}, "num_heads=5 must divide the width"),
        ({"num_heads": 0}, "num_heads=0 must be a whole number"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_arguments_are_named(kind, change, message):
    with pytest.raises(ValueError, match=message):
        build(kind, **change)


def test_bad_calls_are_named():
    vision, question = world()
    merger = build("fixed_pooling")
    with pytest.raises(ValueError, match="65 merged tokens are asked for, but only 64 arrive"):
        merger(vision, question, keep=65)
    with pytest.raises(
        ValueError, match="LearnableTokenMergerV3 was made to read the question, but question_embeddings"
    ):
        merger(vision)
    with pytest.raises(
        ValueError, match=r"question_embeddings of shape \(2, 5, 39\) do not fit: 2 pictures and d_text=40"
    ):
        merger(vision, question[..., :39])
