"""Programs as users of LLaVA write them, on a small checkpoint."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import PARITY15

CHECKPOINT = str(PARITY15 / "checkpoint")


def picture(number: int = 0) -> str:
    return str(PARITY15 / f"image{number}.png")


def test_the_quick_start_of_llavas_readme(llava15, capsys):
    from llava.eval.run_llava import eval_model
    from llava.mm_utils import get_model_name_from_path

    case = llava15.cases()[0]
    args = type(
        "Args",
        (),
        {
            "model_path": CHECKPOINT,
            "model_base": None,
            "model_name": get_model_name_from_path(CHECKPOINT),
            "query": case["question"],
            "conv_mode": "vicuna_v1",
            "image_file": picture(),
            "sep": ",",
            "temperature": 0,
            "top_p": None,
            "num_beams": 1,
            "max_new_tokens": 16,
        },
    )()
    eval_model(args)
    assert capsys.readouterr().out.strip() == case["text"].strip()


def test_an_object_without_a_question_is_told():
    from llava.eval.run_llava import eval_model

    with pytest.raises(ValueError, match="args.query is missing; it stands for the flag --query"):
        eval_model(SimpleNamespace(model_path=CHECKPOINT, image_file=picture()))


def test_what_web_servers_import():
    from llava.utils import (
        build_logger,
        moderation_msg,
        pretty_print_semaphore,
        server_error_msg,
        violates_moderation,
    )

    assert callable(build_logger) and server_error_msg != moderation_msg
    assert pretty_print_semaphore(None) == "None"
    assert pretty_print_semaphore(asyncio.Semaphore(5)) == "Semaphore(value=5, locked=False)"
    with pytest.raises(NotImplementedError, match="moderations.create"):
        violates_moderation("hello")


def test_projectors_by_type():
    from llava.model.multimodal_projector.builder import IdentityMap, build_vision_projector

    def built(kind):
        return build_vision_projector(
            SimpleNamespace(mm_projector_type=kind, mm_hidden_size=6, hidden_size=4), delay_load=False
        )

    assert isinstance(built("identity"), IdentityMap)
    assert built("identity").config == {"mm_projector_type": "identity"}
    assert isinstance(built("linear"), torch.nn.Linear)
    assert [type(layer).__name__ for layer in built("mlp2x_gelu")] == ["Linear", "GELU", "Linear"]


def test_features_are_selected_from_the_towers_output(llava15):
    tower = llava15.model.get_vision_tower()
    pixels = torch.randn(2, 3, 336, 336, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = tower.vision_tower(pixels, output_hidden_states=True)
        assert torch.allclose(tower.feature_select(outputs), tower(pixels), atol=1e-5)
        assert torch.equal(tower.feature_select(outputs), outputs.hidden_states[tower.select_layer][:, 1:])
