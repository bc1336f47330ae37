"""Every family's prices against torch's own counter: a prefill by part and one decoding step, within one per cent."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.masking_utils import create_causal_mask

from llava.cost.estimate import Prompt, estimates, pictures
from llava.cost.host import from_config
from tests.cost.hosts import CONFIGS, asked, config_of

CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"
WORDS = 30
SIZES = {  # (width, height) of the pictures of a prompt
    "one": ((50, 30),),
    "tall": ((30, 80),),
    "two": ((28, 28), (60, 42)),
}
SMALL = {"qwen2_vl": {"min_pixels": 14 * 14, "max_pixels": 14 * 14 * 40}, "idefics3": {"longest_edge": 56, "tile": 28}}
PROCESSOR = {
    **{name: SMALL["qwen2_vl"] for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")},
    **{name: SMALL["idefics3"] for name in ("idefics3", "smolvlm")},
}
CASES = [
    (name, sizes)
    for name in CONFIGS
    for sizes in SIZES
    if not (name == "llava_next" and sizes == "two")  # crops of two sizes in one tensor are padded, and computed
]


def counted(function) -> tuple[float, object]:
    # torch's counter does not know the fused attention of a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        result = function()
    return counter.get_total_flops(), result


@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_a_prefill_and_a_step(name, sizes, tmp_path):
    config_of(name).save_pretrained(tmp_path)
    host = from_config(tmp_path, PROCESSOR.get(CONFIGS[name]["model_type"]))
    prompt = Prompt(SIZES[sizes], text=WORDS)
    seen = pictures(host, prompt)
    (dense,) = estimates(host, prompt, [])
    words = WORDS + sum(picture.separators for picture in seen)
    question = asked(name, seen, [(height, width) for width, height in SIZES[sizes]], words)
    assert dense.cost.rows_per_layer == [question.rows] * host.layers

    flops, output = counted(lambda: question.model(**question.inputs, use_cache=True, logits_to_keep=1))
    assert flops == pytest.approx(dense.cost.total_flops, rel=0.01)

    features = {key: value for key, value in question.inputs.items() if key in FEATURES}
    seeing, _ = counted(lambda: question.model.get_image_features(**features))
    assert seeing == pytest.approx(dense.cost.tower_flops + dense.cost.projector_flops, rel=0.01)

    mask = torch.ones(1, question.rows + 1, dtype=torch.long)
    step = {"input_ids": torch.tensor([[7]]), "attention_mask": mask, CACHE: output[CACHE]}
    if CONFIGS[name]["model_type"].startswith("qwen"):
        step["position_ids"] = torch.full((3, 1, 1), question.rows)
    decoding, _ = counted(lambda: question.model(**step))
    assert decoding == pytest.approx(dense.decode_flops, rel=0.01)


FEATURES = ("pixel_values", "image_grid_thw", "image_sizes", "batch_num_images")
