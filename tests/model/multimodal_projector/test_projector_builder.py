"""The projector's shapes and the names its weights have in published files."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from llava.model.multimodal_projector.builder import build_vision_projector


def projector(kind):
    return build_vision_projector(SimpleNamespace(mm_projector_type=kind, mm_hidden_size=6, hidden_size=4))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("linear", {"weight", "bias"}),
        ("mlp1x_gelu", {"0.weight", "0.bias"}),
        ("mlp2x_gelu", {"0.weight", "0.bias", "2.weight", "2.bias"}),
        ("mlp3x_gelu", {"0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"}),
    ],
)
def test_names_and_shape(kind, names):
    made = projector(kind)
    assert set(made.state_dict()) == names and made(torch.zeros(2, 5, 6)).shape == (2, 5, 4)


def test_identity():
    x = torch.rand(2, 6)
    assert projector("identity")(x) is x


@pytest.mark.parametrize("kind", ["mlp0x_gelu", "mlp2x_relu", "resampler"])
def test_unknown(kind):
    with pytest.raises(ValueError, match=f"mm_projector_type='{kind}'"):
        projector(kind)


def test_linear_is_the_default():
    assert isinstance(build_vision_projector(SimpleNamespace(mm_hidden_size=6, hidden_size=4)), torch.nn.Linear)
