"""Document 003's four checks: the tower's own features come out, M of that width come back, and they are projected once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from llava.model.multimodal_projector.builder import build_vision_projector
from llava.reduction import Stage, reduced
from llava.reduction.mergers import LearnableTokenMerger, LearnableTokenMergerV2, LearnableTokenMergerV3
from llava.reduction.methods.anywhere.merger import TrainedMerger
from tests.tiny import prompt, tiny_model

VERSIONS = [LearnableTokenMerger, LearnableTokenMergerV2, LearnableTokenMergerV3]


@pytest.fixture(scope="module")
def real():
    """The real shapes: CLIP ViT-L/14's 576 features of 1024, a question of Vicuna's width, LLaVA-1.5's projector."""
    torch.manual_seed(0)
    config = SimpleNamespace(mm_projector_type="mlp2x_gelu", mm_hidden_size=1024, hidden_size=4096)
    return torch.randn(1, 576, 1024), torch.randn(1, 12, 4096), build_vision_projector(config)


@pytest.fixture
def case(llava15):
    return llava15.inputs(llava15.cases()[0])


def test_the_model_gives_the_towers_features(llava15, case):
    """Check 1; and they are what it makes tokens of, so that the same answer comes from them as from the pixels."""
    model = llava15.model
    (raw,) = model.encode_raw(case["images"])
    assert raw.shape == (576, model.config.mm_hidden_size)
    given = {name: value for name, value in case.items() if name == "input_ids"}
    with torch.no_grad():
        assert torch.equal(model(**given, raw_vision_features=[raw]).logits, model(**case).logits)


@pytest.mark.parametrize("version", VERSIONS)
def test_as_wide_comes_out_as_went_in(real, version):
    """Checks 2 and 4: 576 x 1024 -> 288 x 1024."""
    vision, question, _ = real
    merger = version(merge_ratio=0.5).eval()
    with torch.no_grad():
        found = merger(vision, question if merger.needs_question else None)
    assert found["merged_features"].shape == (1, 288, 1024)
    assert found["merge_weights"].shape == (1, 288, 576)
    torch.testing.assert_close(found["merge_weights"].sum(-1), torch.ones(1, 288))
    indices = found["merge_indices"][0]
    assert (indices[1:] > indices[:-1]).all() and 0 <= indices[0] and indices[-1] < 576


def test_projected_to_the_language_models_width(real):
    """Check 3: 288 x 1024 -> 288 x 4096."""
    vision, _, projector = real
    with torch.no_grad():
        merged = LearnableTokenMerger().eval()(vision)["merged_features"]
        assert projector(merged).shape == (1, 288, 4096)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_projector_runs_once_on_what_is_left(llava15, case, version):
    model = llava15.model
    width, text = model.config.mm_hidden_size, model.config.hidden_size
    widths = (
        {"d_model": width} if version is LearnableTokenMerger else {"d_vision": width, "d_text": text, "d_internal": 32}
    )
    plan = [Stage(TrainedMerger(module=version(**widths, num_heads=4).eval()), "features", keep=288)]
    seen = []
    watching = model.model.mm_projector.register_forward_hook(
        lambda _, given, out: seen.append((given[0].shape, out.shape))
    )
    try:
        with reduced(model, plan), torch.no_grad():
            model(**case)
    finally:
        watching.remove()
    assert seen == [((288, width), (288, text))]
    assert model.model.last_visual_per_layer.unique().tolist() == [288]


def test_a_model_without_a_tower_is_refused():
    model = tiny_model()
    with (
        reduced(model, "merger:16"),
        pytest.raises(ValueError, match="site='features' of merger:16 is before the decoder"),
    ):
        model(**prompt((4, 20, 4)).inputs)


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__]))
