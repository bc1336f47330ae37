"""What stages learn on a stock model, against the attention of the model itself under eager."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from llava import reduced
from llava.reduction import Evidence, Need, Reducer, Stage
from tests.model.hosts.worlds import SOME, WORLDS, Rows, build, inputs_of

SINGLE: Rows = [[(1, 1)], [(1, 1)], [(1, 1)]]
TOWERS = [
    "llava",
    "llava_next",
    "llava_onevision",
    "internvl",
    "smolvlm",
    "gemma3",
    "paligemma",
    "qwen2_vl",
    "qwen3_vl",
]


class Probe(Reducer):
    """Keeps everything and remembers what it was told."""

    name = "probe"
    tower_layers = (-2,)

    def __init__(self, ask: Any, needs: set[Need]):
        super().__init__()
        self.ask, self.needs, self.seen = ask, frozenset(needs), []

    def select(self, tokens: Tensor, evidence: Evidence, k: int | None) -> Tensor:
        self.seen.append((tokens, self.ask(evidence)))
        return torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)


def decoder_probe(layer: int, **asked: Any) -> tuple[Stage, Probe]:
    probe = Probe(lambda evidence: (evidence.attention(**asked), evidence.group), {Need.ATTENTION})
    return Stage(probe, "layer", layer, 1.0), probe


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("name", WORLDS)
def test_rows_of_attention_are_the_models_own(name, cached, backend):
    model = build(name)
    if backend == "sdpa" and name == "paligemma2":
        pytest.skip("Gemma 2 runs under eager alone")
    inputs = inputs_of(name, model, SOME)
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    if backend == "eager":
        model = eager
    for layer in (1, 2, 3):
        with torch.no_grad():
            maps = eager(**inputs, output_attentions=True, use_cache=False).attentions[layer - 1]  # (B, H, S, S)
        for rows in ("last", "image"):
            stage, probe = decoder_probe(layer, rows=rows)
            with torch.no_grad(), reduced(model, [stage]):
                model(**inputs, use_cache=cached)
            assert probe.seen
            for _, (attention, group) in probe.seen:
                for image, (row, columns) in enumerate(zip(group.rows.tolist(), group.columns)):
                    block = maps[row][:, -1] if rows == "last" else maps[row][:, columns]
                    torch.testing.assert_close(attention[image], block[..., columns], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", TOWERS)
def test_what_patches_receive_is_the_towers_own(name):
    """Mean over all patches, averaged over the patches that make a token, of the layer that makes the features."""
    model = build(name)
    inputs = inputs_of(name, model, SINGLE)
    probe = Probe(lambda evidence: evidence.mean_attention(), {Need.TOWER})
    wanted = _eager_tower(name)
    with torch.no_grad(), reduced(model, [Stage(probe, "projected", None, 1.0)]):
        model(**inputs)
    told = [part for _, attention in probe.seen for part in attention]  # (H, N) of every part
    expected = wanted(model, inputs)  # (crops, H, patches)
    same = [any(part.shape == crop.shape and (part - crop).abs().max() < 2e-6 for crop in expected) for part in told]
    # Of pictures in crops the first part is the whole picture, one crop; the others are cut from several.
    assert sum(same) == 3 if name in ("llava_next", "llava_onevision") else all(same) and len(same) >= 3


def _eager_tower(name: str) -> Any:
    def run(model: Any, inputs: dict[str, Any]) -> Tensor:
        core = copy.deepcopy(model.model)
        core.set_attn_implementation("eager")
        tower = getattr(core, "vision_tower", None) or getattr(core, "visual", None) or core.vision_model
        seen: list[Tensor] = []
        stack = max((m for m in tower.modules() if isinstance(m, torch.nn.ModuleList)), key=len)
        number = {"llava": -2, "llava_next": -2}.get(name, -1)
        layer = stack[number]
        attention = getattr(layer, "self_attn", None) or getattr(layer, "attn", None) or layer.attention

        module = sys.modules[type(attention).__module__]
        own = module.eager_attention_forward

        def keep(*args: Any, **kwargs: Any) -> Any:
            output = own(*args, **kwargs)
            if args[0] is attention:
                seen.append(output[1])
            return output

        module.eager_attention_forward = keep
        try:
            with torch.no_grad():
                extra = {k: inputs[k] for k in ("image_sizes", "image_grid_thw") if k in inputs}
                core.get_image_features(inputs["pixel_values"], **extra)
        finally:
            module.eager_attention_forward = own
        maps = torch.cat(seen)  # (crops, H, R, R)
        skip = maps.shape[-1] % 2 if name in ("llava", "llava_next", "internvl") else 0
        received = maps[:, :, skip:, skip:].mean(2)
        tokens = {"internvl": 4, "smolvlm": 4, "qwen2_vl": 4, "qwen3_vl": 4}.get(name, received.shape[-1])
        if tokens == received.shape[-1]:
            return received
        if name.startswith("qwen"):
            return received.unflatten(-1, (tokens, -1)).mean(-1)
        cells = received.view(*received.shape[:2], 2, 2, 2, 2)  # two rows of blocks, two rows in each, likewise columns
        return cells.mean((3, 5)).flatten(2)

    return run


def test_windows_change_nothing_of_what_full_attention_tells():
    """Qwen2.5-VL sorts patches by windows; a layer of full attention does not care, and nor may its evidence."""
    told = []
    plain = build("qwen2_5_vl")
    for window in (28, 112):
        model = copy.deepcopy(plain)
        model.model.visual.window_size = window
        model.model.visual.fullatt_block_indexes = [0, 1]
        inputs = inputs_of("qwen2_5_vl", model, SOME)
        probe = Probe(lambda evidence: (evidence.mean_attention(), evidence.tower_keys()), {Need.TOWER})
        with torch.no_grad(), reduced(model, [Stage(probe, "projected", None, 1.0)]):
            model(**inputs)
        told.append(probe.seen)
    assert len(told[0]) == len(told[1]) > 1
    for (tokens, evidence), (others, again) in zip(*told):
        torch.testing.assert_close(tokens, others, rtol=0, atol=2e-5)
        for one, other in zip(evidence, again):
            torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
        assert evidence[0].std() > 1e-3


def test_newlines_are_no_patches():
    """LLaVA-NeXT's tokens at the ends of rows are in no evidence, and no plan takes them away."""
    model = build("llava_next")
    inputs = inputs_of("llava_next", model, SOME)
    newline = model.model.image_newline
    probe = Probe(lambda evidence: None, set())
    with torch.no_grad(), reduced(model, [Stage(probe, "prompt", None, 1.0)]):
        model(**inputs)
    seen = torch.cat([tokens.flatten(0, 1) for tokens, _ in probe.seen])
    assert not (seen == newline).all(-1).any()
    entered: list[Tensor] = []
    with torch.no_grad(), reduced(model, "divprune:1"):
        hook = model.model.language_model.layers[0].self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: entered.append(kwargs["hidden_states"]), with_kwargs=True
        )
        model(**inputs)
        hook.remove()
    norm = model.model.language_model.layers[0].input_layernorm
    lines = (entered[0] - norm(newline)).abs().amax(-1) < 1e-6
    assert lines.sum(1).tolist() == [4, 0, 8 + 4]  # one a row of patches


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_tokens_of_a_picture_are_the_features_that_made_them(name):
    """At the features a stage sees what went into the projector, crop by crop, cut to the picture."""
    model = build(name)
    inputs = inputs_of(name, model, SOME)
    features, projected = (Probe(lambda evidence: None, set()) for _ in range(2))
    plan = [Stage(features, "features", None, 1.0), Stage(projected, "projected", None, 1.0)]
    with torch.no_grad(), reduced(model, plan):
        model(**inputs)
        for (before, _), (after, _) in zip(features.seen, projected.seen):
            torch.testing.assert_close(model.model.multi_modal_projector(before), after, rtol=0, atol=1e-5)
