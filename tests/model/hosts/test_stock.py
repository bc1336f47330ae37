"""Plans on stock models of transformers: every family against itself, masked, alone, recomputed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from llava import reduced
from tests.model.hosts.worlds import SOME, WORLDS, build, inputs_of

NAMES = list(WORLDS)
LAYER_PLANS = ["fastv@1:3", "fastv@2:2", "divprune@3:3", "fastv@1:75%+fastv@3:50%"]
EARLY_PLANS = ["divprune:3", "random:50%", "cdpruner:3,relevance=embeddings", "fastervlm:3,saliency=mean_attention"]
KEEP_ALL = ["full", "fastv@1:100%", "fastv@3:100%", "divprune:100%", "fastervlm:100%,saliency=mean_attention"]


@pytest.fixture(scope="module")
def worlds() -> dict[str, tuple[Any, dict[str, Any]]]:
    """Every host's model and a batch: one image, text only, two images of other sizes."""
    made = {}
    for name in NAMES:
        model = build(name)
        made[name] = model, inputs_of(name, model, SOME)
    return made


def logits(model: Any, inputs: dict[str, Any], plan: str | None = None, **more: Any) -> Tensor:
    with torch.no_grad():
        if plan is None:
            return model(**inputs, **more).logits
        with reduced(model, plan):
            return model(**inputs, **more).logits


def answers(model: Any, inputs: dict[str, Any], plan: str | None = None, new: int = 4, **more: Any) -> Any:
    options = {
        "max_new_tokens": new,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
        **more,
    }
    if plan is None:
        return model.generate(**inputs, **options)
    with reduced(model, plan):
        return model.generate(**inputs, **options)


def steps(answer: Any) -> Tensor:
    return torch.stack(answer.logits)


@pytest.mark.parametrize("name", NAMES)
def test_keeping_all_is_the_stock_model_bit_for_bit(worlds, name):
    model, inputs = worlds[name]
    stock, answered = logits(model, inputs), steps(answers(model, inputs))
    for plan in KEEP_ALL:
        assert torch.equal(logits(model, inputs, plan), stock), plan
        assert torch.equal(steps(answers(model, inputs, plan)), answered), plan
    uncached = steps(answers(model, inputs, use_cache=False))
    assert torch.equal(steps(answers(model, inputs, "fastv@2:100%", use_cache=False)), uncached)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_block_is_left(worlds, name):
    model, inputs = worlds[name]
    stock, keys = logits(model, inputs), list(model.state_dict())
    before = {path: dict(module.__dict__) for path, module in model.named_modules()}
    with pytest.raises(RuntimeError, match="on purpose"), reduced(model, "fastv@2:2"), reduced(model, "divprune:3"):
        assert list(model.state_dict()) == keys
        model(**inputs)
        raise RuntimeError("on purpose")
    assert {path: list(module.__dict__) for path, module in model.named_modules()} == {
        path: list(names) for path, names in before.items()
    }
    assert torch.equal(logits(model, inputs), stock)


@pytest.mark.parametrize("plan", LAYER_PLANS)
@pytest.mark.parametrize("name", NAMES)
def test_drop_equals_mask(worlds, name, plan):
    model, inputs = worlds[name]
    masked = "+".join(f"{part},place=mask" for part in plan.split("+"))
    dropped, hidden = logits(model, inputs, plan), logits(model, inputs, masked)
    left = inputs["attention_mask"].bool() & (dropped.abs().sum(-1) > 0)
    assert left.sum() < inputs["attention_mask"].sum()
    torch.testing.assert_close(dropped[left], hidden[left], rtol=0, atol=2e-5)


@pytest.mark.parametrize("plan", LAYER_PLANS + EARLY_PLANS)
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_each_prompt_alone(worlds, name, plan):
    model, _ = worlds[name]
    rows = [SOME[2], SOME[0], SOME[1]]
    together = steps(answers(model, _batch(name, model, rows), plan))
    for number in range(len(rows)):
        alone = steps(answers(model, _alone(name, model, rows, number), plan))
        torch.testing.assert_close(together[:, number], alone[:, 0], rtol=0, atol=5e-5)


def _batch(name: str, model: Any, rows: list) -> dict[str, Any]:
    return inputs_of(name, model, rows)


def _alone(name: str, model: Any, rows: list, number: int) -> dict[str, Any]:
    """One row of a batch as its processor would give it alone."""
    inputs = inputs_of(name, model, rows)
    real = inputs["attention_mask"][number].bool()
    own = {
        key: inputs[key][number : number + 1, real]
        for key in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
        if key in inputs
    }
    if not rows[number] or "pixel_values" not in inputs:
        return own
    pixels = inputs["pixel_values"]
    first, count = sum(len(row) for row in rows[:number]), len(rows[number])
    if "image_grid_thw" in inputs:
        ends = [0, *inputs["image_grid_thw"].prod(1).cumsum(0).tolist()]
        own["image_grid_thw"] = inputs["image_grid_thw"][first : first + count]
        own["pixel_values"] = pixels[ends[first] : ends[first + count]]
    elif name in ("smolvlm", "idefics3"):
        own["pixel_values"] = pixels[number : number + 1, (pixels[number] != 0).flatten(1).any(1)]
    elif name == "internvl":
        tiles = [h * w for row in rows for h, w in row]
        own["pixel_values"] = pixels[sum(tiles[:first]) : sum(tiles[: first + count])]
    else:
        own["pixel_values"] = pixels[first : first + count]
    if "image_sizes" in inputs:
        own["image_sizes"] = inputs["image_sizes"][first : first + count]
    return own


@pytest.mark.parametrize("plan", LAYER_PLANS + EARLY_PLANS)
@pytest.mark.parametrize("name", NAMES)
def test_cached_steps_are_those_of_a_prompt_read_again(worlds, name, plan):
    model, inputs = worlds[name]
    stock, unreduced = (steps(answers(model, inputs, use_cache=cache)) for cache in (True, False))
    if (stock - unreduced).abs().max() > 1e-3:
        pytest.skip(f"this version of transformers reads {name} again differently, without any plan")
    cached, again = (steps(answers(model, inputs, plan, use_cache=cache)) for cache in (True, False))
    torch.testing.assert_close(cached, again, rtol=0, atol=5e-5)


@pytest.mark.parametrize("plan", ["fastv@2:2", "divprune:3"])
@pytest.mark.parametrize("name", NAMES)
def test_beams_and_samples(worlds, name, plan):
    """One beam is greedy; beams of a batch are those of each row; a seed draws the same again."""
    model, inputs = worlds[name]
    beams = answers(model, inputs, plan, num_beams=2, output_logits=False).sequences
    alone = _alone(name, model, SOME, 0)
    row = answers(model, alone, plan, num_beams=2, output_logits=False).sequences
    assert torch.equal(beams[0, -4:], row[0, -4:])
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        draws.append(
            answers(model, inputs, plan, do_sample=True, num_return_sequences=2, output_logits=False).sequences
        )
    assert torch.equal(*draws)


@pytest.mark.parametrize("plan", ["fastv@2:2", "divprune:3"])
@pytest.mark.parametrize("name", NAMES)
def test_a_second_turn_goes_on_from_the_reduced_cache(worlds, name, plan):
    model, _ = worlds[name]
    rows = [SOME[0]]
    inputs = inputs_of(name, model, rows)
    more = torch.tensor([[44, 45, 46]])
    with reduced(model, plan):
        first = answers(model, inputs, new=3)
        cache = first.get("cache", first.get("past_key_values"))
        ids = torch.cat([first.sequences, more], dim=1)
        longer = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for key in ("token_type_ids", "mm_token_type_ids"):
            if key in longer:
                longer[key] = torch.nn.functional.pad(longer[key], (0, ids.shape[1] - longer[key].shape[1]))
        text = {key: value for key, value in longer.items() if not key.startswith(("pixel", "image_"))}
        on = answers(model, text, new=3, past_key_values=cache)
        stepwise = _by_hand(model, inputs, first.sequences[:, inputs["input_ids"].shape[1] :], more)
    torch.testing.assert_close(on.logits[0], stepwise, rtol=0, atol=5e-5)


def _by_hand(model: Any, inputs: dict[str, Any], answer: Tensor, more: Tensor) -> Tensor:
    """The logits behind a second turn, fed one token at a time through generate's own cache."""
    forced = torch.cat([answer, more], dim=1)

    def force(ids: Tensor, scores: Tensor) -> Tensor:
        step = ids.shape[1] - inputs["input_ids"].shape[1]
        if step < forced.shape[1]:
            scores = torch.full_like(scores, -1e9)
            scores[:, forced[0, step]] = 0
        return scores

    forced_answer = answers(model, inputs, new=forced.shape[1] + 1, logits_processor=[force])
    return forced_answer.logits[forced.shape[1]]


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_are_those_of_the_rows_that_are_left(worlds, name):
    model, inputs = worlds[name]
    with torch.no_grad(), reduced(model, "fastv@2:2"):
        states = model(**inputs, output_hidden_states=True, use_cache=False).hidden_states
    with torch.no_grad():
        stock = model(**inputs, output_hidden_states=True, use_cache=False).hidden_states
    assert len(states) == len(stock)
    assert all(torch.equal(a, b) for a, b in zip(states[:2], stock[:2]))
    assert states[3].shape[1] < stock[3].shape[1]


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(name, dtype):
    model = build(name).to(dtype)
    inputs = inputs_of(name, model, SOME)
    inputs = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
    assert torch.equal(logits(model, inputs, "fastv@2:100%"), logits(model, inputs))
    assert logits(model, inputs, "fastv@2:2").isfinite().all()


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_saved_and_loaded_it_answers_the_same(worlds, name, tmp_path):
    model, inputs = worlds[name]
    before = logits(model, inputs, "fastv@2:2")
    with reduced(model, "fastv@2:2"):
        model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded, inputs, "fastv@2:2"), before)


def test_two_models_and_two_plans_at_once(worlds):
    (one, inputs), other = worlds["llava"], copy.deepcopy(worlds["llava"][0])
    first, second = logits(one, inputs, "fastv@2:2"), logits(other, inputs, "divprune:5")
    with torch.no_grad(), reduced(one, "fastv@2:2"), reduced(other, "divprune:5"):
        assert torch.equal(one(**inputs).logits, first) and torch.equal(other(**inputs).logits, second)
        with reduced(one, "full"):
            assert torch.equal(one(**inputs).logits, logits(one, inputs, "full"))
        assert torch.equal(one(**inputs).logits, first)


def _right(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same batch padded on the right."""
    mask = inputs["attention_mask"].bool()
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
    padded = {key: value for key, value in inputs.items() if key.startswith(("pixel", "image_"))}
    for key in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
        if key in inputs:
            padded[key] = inputs[key].gather(1, order)
    return padded


@pytest.mark.parametrize("plan", ["fastv@2:2", "divprune:3", "fastv@1:75%+fastv@3:50%"])
@pytest.mark.parametrize("name", NAMES)
def test_padding_on_the_right_is_padding_on_the_left(worlds, name, plan):
    model, inputs = worlds[name]
    right = _right(inputs)
    left_mask, right_mask = inputs["attention_mask"].bool(), right["attention_mask"].bool()
    same = {key: torch.zeros_like(left_mask, dtype=torch.long) for key in ("left", "right")}
    # Positions by the words that are there, as generate counts them; a plain forward counts the padding too.
    for key, mask in (("left", left_mask), ("right", right_mask)):
        same[key] = (mask.long().cumsum(1) - 1).clamp(min=0)
    axes = name.startswith("qwen") and "vl" in name
    placed = [{} if axes else {"position_ids": same[key] + name.startswith("paligemma")} for key in ("left", "right")]
    one, other = logits(model, inputs, plan, **placed[0]), logits(model, right, plan, **placed[1])
    for row in range(len(left_mask)):
        torch.testing.assert_close(one[row, left_mask[row]], other[row, right_mask[row]], rtol=0, atol=5e-5)
