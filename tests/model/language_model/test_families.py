"""LLaVA over Mistral, Qwen2 and Llama-3: read by name, equal to transformers' own, and reduced as over Llama."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaForCausalLM,
    MistralForCausalLM,
    Qwen2ForCausalLM,
)

from llava.conversation import conv_templates
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model import LlavaMistralConfig, LlavaMistralForCausalLM, LlavaQwenConfig, LlavaQwenForCausalLM
from llava.model.builder import load_pretrained_model
from llava.model.loading.families import FAMILIES
from llava.model.multimodal_encoder.families import TOWERS
from llava.reduction import reduced
from llava.train.conversations import encode_record
from tests.families import LAYERS, write_llava

OWN = {"mistral": MistralForCausalLM, "qwen": Qwen2ForCausalLM, "llama3": LlamaForCausalLM}
PLANS = [
    "fastv@1:25%",
    "divprune:4",
    "pyramiddrop",
    "sparsevlm@2:16",
    "cdpruner:8",
    "visionzip:12",
    "grid:16+fastv@2:8",
]


def load(folder: Path, **more):
    return SimpleNamespace(
        **dict(zip(("tokenizer", "model", "processor", "length"), load_pretrained_model(folder, device="cpu", **more)))
    )


@pytest.fixture(scope="module", params=list(OWN))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    return write_llava(tmp_path_factory.mktemp(f"llava-{kind}") / "checkpoint", kind)


@pytest.fixture(scope="module")
def llava(folder):
    return load(folder)


def picture(seed: int = 0, size: tuple[int, int] = (40, 32)) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (*size[::-1], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def inputs(llava, *prompts: str) -> dict:
    """A left-padded batch of prompts and their pictures."""
    rows = [tokenizer_image_token(prompt, llava.tokenizer) for prompt in prompts]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    count = sum(prompt.count("<image>") for prompt in prompts)
    pictures = [picture(number) for number in range(count)]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "images": process_images(pictures, llava.processor, llava.model.config) if pictures else None,
        "image_sizes": [one.size for one in pictures] or None,
    }


ONE = "<image>\nWhat is in the picture?"
MIXED = (ONE, "Is it a dog?", "Look: <image> and <image>\nA red square?")


def test_the_names_users_know(llava, folder, kind):
    names = {"mistral": "LlavaMistralForCausalLM", "qwen": "LlavaQwenForCausalLM", "llama3": "LlavaLlamaForCausalLM"}
    assert type(llava.model).__name__ == names[kind] == llava.model.config.architectures[0]
    assert json.loads((folder / "config.json").read_text())["model_type"] == llava.model.config.model_type
    assert llava.length == 1024


def test_registered_with_transformers():
    for config, model in ((LlavaMistralConfig, LlavaMistralForCausalLM), (LlavaQwenConfig, LlavaQwenForCausalLM)):
        assert AutoConfig.for_model(config.model_type).__class__ is config
        tiny = config(
            vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1,
        )  # fmt: skip
        assert isinstance(AutoModelForCausalLM.from_config(tiny), model)


@torch.no_grad()
def test_without_a_plan_it_is_transformers_own(llava, kind):
    """Bit for bit on the same embeddings: forward, and every token that is generated."""
    own = OWN[kind](llava.model.config).eval()
    own.load_state_dict(
        {
            name: tensor
            for name, tensor in llava.model.state_dict().items()
            if "vision" not in name and "mm_" not in name
        }
    )
    given = inputs(llava, *MIXED)
    spliced = llava.model.splice(**given, padding_side="left")
    same = {
        "inputs_embeds": spliced.inputs_embeds,
        "attention_mask": spliced.attention_mask.long(),
        "position_ids": (spliced.attention_mask.long().cumsum(1) - 1).clamp(min=0),
    }
    assert torch.equal(llava.model(**same).logits, own(**same).logits)
    del same["position_ids"]
    quiet = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(llava.model.generate(**given, **quiet), own.generate(**same, **quiet))


def greedy(llava, given: dict, plan, steps: int = 5, **more) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and their logits (steps, B, V)."""
    llava.model.generation_config.eos_token_id = None
    out = llava.model.generate(
        **given, reduction=plan, max_new_tokens=steps, do_sample=False, output_logits=True,
        return_dict_in_generate=True, **more,
    )  # fmt: skip
    return out.sequences, torch.stack(out.logits)


@pytest.mark.parametrize("plan", PLANS)
def test_a_batch_answers_as_each_row_alone(llava, plan):
    together, logits = greedy(llava, inputs(llava, *MIXED), plan)
    sizes = [1, 0, 2]
    start = 0
    whole = inputs(llava, *MIXED)
    for row, (prompt, count) in enumerate(zip(MIXED, sizes)):
        alone = inputs(llava, prompt)
        if count:
            alone["images"] = whole["images"][start : start + count]
            start += count
        tokens, own = greedy(llava, alone, plan)
        assert torch.equal(tokens[0], together[row])
        torch.testing.assert_close(own[:, 0], logits[:, row], rtol=0, atol=2e-4)


@pytest.mark.parametrize("plan", ["fastv@1:25%", "pyramiddrop", "sparsevlm@2:16"])
def test_cached_steps_are_recomputed_ones(llava, plan):
    given = inputs(llava, ONE)
    tokens, logits = greedy(llava, given, plan, steps=4)
    spliced = llava.model.splice(**given, padding_side="left", reduction=plan)
    embeds = spliced.inputs_embeds
    with torch.no_grad():
        for step in range(4):
            answer = llava.model.get_model().embed_tokens(tokens[:, :step])
            out = llava.model(
                inputs_embeds=torch.cat([embeds, answer], 1), visual=spliced.visual, sample_seed=spliced.sample_seed,
                grids=spliced.grids, reduction=plan, use_cache=False,
            )  # fmt: skip
            torch.testing.assert_close(out.logits[:, -1], logits[step], rtol=0, atol=2e-4)


def test_dropped_is_masked(llava):
    given = inputs(llava, *MIXED)
    tokens, logits = greedy(llava, given, "fastv@1:25%")
    assert llava.model.model.last_visual_per_layer.tolist() == [[64, 0, 128], *[[16, 0, 32]] * 3]
    masked, others = greedy(llava, given, {"method": "fastv", "layer": 1, "keep": 0.25, "place": "mask"})
    assert torch.equal(tokens, masked)
    torch.testing.assert_close(logits, others, rtol=0, atol=1e-4)


@torch.no_grad()
def test_evidence_is_the_eager_attention(folder):
    """FastV's score against the attention weights of transformers' own eager layers: the same tokens are kept."""
    llava = load(folder, attn_implementation="eager")
    given = inputs(llava, ONE)
    llava.model(**given, reduction="fastv@2:8")
    kept = llava.model.model.last_trace[0].kept_origins(row=0, text=False)
    maps = llava.model(**given, output_attentions=True).attentions[1]  # (1, H, S, S)
    image = llava.model.splice(**given).visual[0].nonzero().flatten()
    best = maps[0, :, -1].mean(0)[image].topk(8).indices
    assert kept.tolist() == image[best].sort().values.tolist()


def test_saved_and_loaded_again_with_its_plan(llava, tmp_path):
    given = inputs(llava, ONE)
    expected = llava.model(**given, reduction="fastv@1:25%").logits
    llava.model.config.reduction = "fastv@1:25%"
    try:
        llava.model.save_pretrained(tmp_path)
    finally:
        llava.model.config.reduction = None
    llava.tokenizer.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert type(again.model) is type(llava.model) and again.model.config.reduction == "fastv@1:25%"
    torch.testing.assert_close(again.model(**inputs(again, ONE)).logits, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_knobs_and_blocks(llava, folder):
    given = inputs(llava, ONE)
    expected = llava.model(**given, reduction="fastv@1:16").logits
    with reduced(llava.model, "fastv@1:16"):
        assert torch.equal(llava.model(**given).logits, expected)
    knobs = load(folder, use_fast_v=True, fast_v_attention_rank=16, fast_v_agg_layer=1)
    assert torch.equal(knobs.model(**given).logits, expected)
    assert len(knobs.model.model.last_gen_kept_indices) == expected.shape[1]
    with pytest.raises(ValueError, match="fast_v_atention_rank.*fast_v_attention_rank"):
        load(folder, fast_v_atention_rank=3)
    with pytest.raises(ValueError, match="fast_v_agg_layer='x' must be int"):
        llava.model.config.fast_v_agg_layer = "x"
    for flags in (
        {"use_hmap_v": True, "hmap_v_attn_txt_layer": 1, "hmap_v_attn_txt_rank": 32},
        {"use_custom_selection": True, "custom_agg_layer": 1, "custom_placement": "drop"},
        {
            "use_token_condensation": True,
            "condensation_layers": [1],
            "condensation_ranks": [8],
            "condensation_num_heads": 4,
        },
    ):
        model = load(folder, **flags).model
        model(**given)
        assert model.model.last_visual_per_layer[-1].item() in (32, 8)
    assert llava.model.model.last_visual_per_layer.shape[0] == LAYERS


def test_tied_embeddings_and_biases(tmp_path):
    folder = write_llava(tmp_path, "qwen", tied=True)
    llava = load(folder)
    assert llava.model.lm_head.weight is llava.model.model.embed_tokens.weight
    assert llava.model.model.layers[0].self_attn.q_proj.bias.abs().max() > 0
    llava.model.save_pretrained(tmp_path / "again")
    llava.tokenizer.save_pretrained(tmp_path / "again")
    given = inputs(llava, ONE)
    again = load(tmp_path / "again")
    torch.testing.assert_close(again.model(**given).logits, llava.model(**given).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["mistral", "qwen"])
def test_a_window_is_right_or_refused(tmp_path, kind):
    """Within the window all is as without it; a position more raises, in the prompt and while answering."""
    fields = {"sliding_window": 90, "use_sliding_window": True, "max_window_layers": 2}
    folder = write_llava(tmp_path, kind, **fields)
    llava = load(folder)
    assert llava.length == 90
    given = inputs(llava, ONE)
    length = llava.model.splice(**given).inputs_embeds.shape[1]
    assert 70 < length < 88
    whole = load(write_llava(tmp_path / "whole", kind))
    expected, logits = greedy(whole, given, "divprune:40", steps=90 - length)
    for plan in (None, "divprune:40", "grid:16"):
        with torch.no_grad():
            own, other = (one.model(**given, reduction=plan).logits for one in (whole, llava))
        assert torch.equal(own, other)
    tokens, found = greedy(llava, given, "divprune:40", steps=90 - length)
    assert torch.equal(tokens, expected) and torch.equal(found, logits)
    with pytest.raises(ValueError, match="sliding_window=90 .* its 91 positions"):
        greedy(llava, given, None, steps=92 - length)
    with pytest.raises(ValueError, match="sliding_window=90 .* shorter than its 1"):
        llava.model(**inputs(llava, MIXED[2]))


@pytest.mark.parametrize("kind", ["mistral", "qwen"])
def test_a_lora_and_a_projector_of_its_own(tmp_path, kind):
    """A LoRA is merged as peft computes it; a projector finds its language model in another folder."""
    peft = pytest.importorskip("peft")
    folder = write_llava(tmp_path / "whole", kind)
    llava = load(folder)
    given = inputs(llava, ONE)
    plain = llava.model(**given).logits

    state = load_file(folder / "model.safetensors")
    base, projector = tmp_path / "base", tmp_path / "projector"
    shutil.copytree(folder, base)
    shutil.copytree(folder, projector)
    own = {name: tensor for name, tensor in state.items() if "mm_projector" in name}
    save_file({name: w for name, w in state.items() if name not in own}, base / "model.safetensors", {"format": "pt"})
    (projector / "model.safetensors").unlink()
    torch.save(own, projector / "mm_projector.bin")
    joined = load_pretrained_model(projector, base, device="cpu")[1]
    torch.testing.assert_close(joined(**given).logits, plain, rtol=0, atol=1e-5)

    settings = peft.LoraConfig(r=2, lora_alpha=8, target_modules=r"model\.layers\..*(q_proj|down_proj)")
    adapted = peft.get_peft_model(load(folder).model, settings)
    with torch.no_grad():
        for name, tensor in adapted.named_parameters():
            if "lora_B" in name:
                tensor.normal_(std=0.1)
    adapted.save_pretrained(tmp_path / "lora")
    shutil.copy(folder / "config.json", tmp_path / "lora")
    expected = adapted.base_model.model(**given).logits.detach()
    assert (expected - plain).abs().max() > 0.01
    merged = load_pretrained_model(tmp_path / "lora", folder, device="cpu")[1]
    torch.testing.assert_close(merged(**given).logits, expected, rtol=0, atol=1e-4)
    assert type(merged) is type(llava.model)


@pytest.mark.parametrize("kind", ["mistral", "qwen"])
@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights(tmp_path, kind, bits):
    """Under a plan whose choice does not hang on the rounding of random weights."""
    pytest.importorskip("bitsandbytes")
    folder = write_llava(tmp_path, kind)
    model = load(folder, **{f"load_{bits}bit": True}).model
    whole = load(folder)
    given = inputs(whole, ONE)
    with torch.no_grad():
        packed, logits = (one(**given, reduction="stride@1:25%").logits[:, -1] for one in (model, whole.model))
    assert type(model.model.layers[0].mlp.up_proj).__name__.startswith("Linear") and packed.isfinite().all()
    assert type(model.model.layers[0].mlp.up_proj) is not torch.nn.Linear
    assert torch.cosine_similarity(packed, logits).item() > (0.99 if bits == 8 else 0.4)


def test_the_page_names_every_family_and_template():
    page = (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text()
    for family in FAMILIES:
        assert all(f"`{name}`" in page for name in (*family.model_types, family.model.__name__)), family.name
    for tower in TOWERS:
        assert tower.name in page and all(f"`{kind}`" in page for kind in tower.kinds)
    for mode in ("mistral_instruct", "mistral_direct", "llava_llama_3", "qwen_1_5", "qwen_2"):
        assert f"`{mode}`" in page and mode in conv_templates


def test_what_is_taught_is_the_same_dropped_and_masked(llava, kind):
    """The loss of an answer behind a reduced picture, and its gradient in the projector."""
    record = {"conversations": [{"from": "human", "value": ONE}, {"from": "gpt", "value": "A red square."}]}
    mode = {"mistral": "mistral_instruct", "qwen": "qwen_1_5", "llama3": "llava_llama_3"}[kind]
    ids, labels = encode_record(record, mode, llava.tokenizer)
    pixels = process_images([picture()], llava.processor, llava.model.config)
    found = []
    for place in ("drop", "mask"):
        llava.model.zero_grad()
        plan = {"method": "fastv", "layer": 1, "keep": 16, "place": place}
        loss = llava.model(ids[None], labels=labels[None], images=pixels, reduction=plan).loss
        loss.backward()
        found.append((loss.detach(), llava.model.model.mm_projector[0].weight.grad.clone()))
    llava.model.zero_grad()
    assert found[0][1].abs().max() > 0
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
