"""A LoRA is merged into its base, and a projector taken out, as LLaVA's scripts do."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava.model.builder import load_pretrained_model
from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM
from tests.conftest import PARITY15
from tests.scripts.test_converters import script

CHECKPOINT = PARITY15 / "checkpoint"


@pytest.fixture
def lora(tmp_path):
    """A folder with an adapter that changes what the model says."""
    peft = pytest.importorskip("peft")
    model = LlavaLlamaForCausalLM.from_pretrained(CHECKPOINT)
    config = peft.LoraConfig(r=2, target_modules=["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"])
    wrapped = peft.get_peft_model(model, config)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            weight.data += 0.1
    wrapped.save_pretrained(tmp_path / "lora")
    return tmp_path / "lora"


def test_a_merged_lora_needs_no_base(lora, tmp_path, llava15):
    output = tmp_path / "merged"
    flags = ["--model-path", str(lora), "--model-base", str(CHECKPOINT), "--save-model-path", str(output)]
    assert script("merge_lora_weights").main([*flags, "--dtype", "float32"]) == 0
    with_base = load_pretrained_model(lora, CHECKPOINT, device="cpu")[1]
    tokenizer, merged, image_processor, _ = load_pretrained_model(output, device="cpu")
    given = llava15.inputs(llava15.cases()[0])
    with torch.no_grad():
        logits = merged(**given).logits
        assert torch.equal(logits, with_base(**given).logits)
        assert not torch.allclose(logits, llava15.model(**given).logits, atol=1e-2)
    assert len(tokenizer) == len(llava15.tokenizer) and image_processor is not None


def test_halves_are_written_and_nothing_is_overwritten(lora, tmp_path, caplog):
    output = tmp_path / "merged"
    flags = ["--model-path", str(lora), "--model-base", str(CHECKPOINT), "--save-model-path", str(output)]
    assert script("merge_lora_weights").main(flags) == 0
    stored = load_file(output / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert script("merge_lora_weights").main(flags) == 2 and "merged is there already; give a new folder" in caplog.text


def test_the_projector_alone(tmp_path, llava15, caplog):
    output = tmp_path / "deep" / "mm_projector.bin"
    assert script("extract_mm_projector").main(["--model-path", str(CHECKPOINT), "--output", str(output)]) == 0
    stored = torch.load(output, weights_only=True)
    own = llava15.model.get_model().mm_projector.state_dict()
    assert set(stored) == {f"model.mm_projector.{name}" for name in own}
    assert all(torch.equal(stored[f"model.mm_projector.{name}"].float(), own[name]) for name in own)

    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"lm_head.weight": torch.zeros(2, 2)}, bare / "model.safetensors", {"format": "pt"})
    assert script("extract_mm_projector").main(["--model-path", str(bare), "--output", str(output)]) == 2
    assert "bare holds no projector" in caplog.text
