"""Loading: every layout, and clear words where something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaForConditionalGeneration
from transformers import LlavaConfig as HfLlavaConfig

from llava.model import builder
from llava.model.builder import load_pretrained_model
from llava.model.loading import placement
from tests.conftest import PARITY15


def load(folder, base=None, **more):
    return load_pretrained_model(folder, base, "any name", device="cpu", **more)


def edit(path: Path, **values):
    """Changes fields of a JSON file; None takes one out."""
    raw = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in raw.items() if value is not None}))


def same_answer(loaded, world):
    case = world.cases()[0]
    model = loaded[1]
    with torch.no_grad():
        logits = model(**world.inputs(case)).logits[0, -1]
    torch.testing.assert_close(logits.float(), torch.tensor(case["logits_last"]), atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------------------------------------ layouts


def test_what_is_returned(llava15):
    assert llava15.context_len == 2048  # tokenizer_model_max_length
    assert llava15.model.config.model_type == "llava_llama" and not llava15.model.training
    assert llava15.image_processor is llava15.model.get_vision_tower().image_processor
    assert type(llava15.image_processor).__name__ == "CLIPImageProcessorPil"


def test_model_type_llava_llama(checkpoint, llava15):
    edit(checkpoint / "config.json", model_type="llava_llama")
    same_answer(load(checkpoint), llava15)


def test_bin_sharded(checkpoint, llava15):
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"pytorch_model-00001-of-00002.bin": names[:40], "pytorch_model-00002-of-00002.bin": names[40:]}
    for file, part in shards.items():
        torch.save({name: tensors[name] for name in part}, checkpoint / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (checkpoint / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    same_answer(load(checkpoint), llava15)
    (checkpoint / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(FileNotFoundError, match="lists pytorch_model-00002-of-00002.bin"):
        load(checkpoint)


def test_tower_weights_inside_the_checkpoint(checkpoint, llava15):
    """As trained towers are saved; those beside the checkpoint (here damaged) are then not read."""
    tower = checkpoint / "clip-tiny-patch14-336" / "model.safetensors"
    tensors = load_file(checkpoint / "model.safetensors")
    tensors |= {f"model.vision_tower.vision_tower.{name}": tensor for name, tensor in load_file(tower).items()}
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    tower.write_bytes(b"")
    same_answer(load(checkpoint), llava15)


def test_a_towers_config_does_not_stand_for_its_weights(checkpoint, llava15):
    tower = json.loads((checkpoint / "clip-tiny-patch14-336" / "config.json").read_text())
    edit(checkpoint / "config.json", mm_vision_config=tower)
    same_answer(load(checkpoint), llava15)


def test_tied_embeddings_need_no_head(checkpoint):
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="missing lm_head.weight"):
        load(checkpoint)
    edit(checkpoint / "config.json", tie_word_embeddings=True)
    _, model, *_ = load(checkpoint)
    assert torch.equal(model.lm_head.weight, tensors["model.embed_tokens.weight"])


def test_layers_may_be_offloaded(llava15, tmp_path):
    parts = [
        "model.embed_tokens",
        "model.vision_tower",
        "model.mm_projector",
        "model.norm",
        "model.rotary_emb",
        "lm_head",
    ]
    places = dict.fromkeys(parts, "cpu") | {f"model.layers.{i}": "disk" if i > 5 else "cpu" for i in range(8)}
    same_answer(load(PARITY15 / "checkpoint", device_map=places, offload_folder=str(tmp_path)), llava15)
    places["model.embed_tokens"] = "disk"
    with pytest.raises(ValueError, match="offloads model.embed_tokens"):
        load(PARITY15 / "checkpoint", device_map=places, offload_folder=str(tmp_path))


def test_saved_and_loaded_again(llava15, tmp_path):
    llava15.model.save_pretrained(tmp_path)
    llava15.tokenizer.save_pretrained(tmp_path)
    again = load(tmp_path)
    same_answer(again, llava15)
    assert again[2].to_dict()["image_mean"] == llava15.image_processor.to_dict()["image_mean"]


@pytest.mark.parametrize("selected", ["default", "full"])
def test_llava_hf_gives_its_logits(tmp_path, selected):
    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 430,
    }
    theirs = LlavaForConditionalGeneration(
        HfLlavaConfig(
            vision_config=CLIPVisionConfig(**vision, image_size=56, patch_size=14),
            text_config=LlamaConfig(**text, num_key_value_heads=2, pad_token_id=0),
            image_token_index=421,
            vision_feature_select_strategy=selected,
            image_seq_length=17 if selected == "full" else 16,
        )
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes((PARITY15 / "checkpoint" / "tokenizer.model").read_bytes())
    _, ours, processor, context = load(tmp_path)
    assert context == 2048 and processor.crop_size["height"] == 56

    pixels = torch.randn(2, 3, 56, 56)
    n = theirs.config.image_seq_length
    prompt = [1, 7, -200, 9, 11, -200, 5]
    expanded = [token for part in prompt for token in ([421] * n if part == -200 else [part])]
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([expanded]), pixel_values=pixels).logits
        actual = ours(input_ids=torch.tensor([prompt]), images=pixels).logits
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def language_model_only(checkpoint: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Writes the checkpoint's language model to `folder`; returns what was left out."""
    folder.mkdir()
    tensors = load_file(checkpoint / "model.safetensors")
    rest = {name: tensors.pop(name) for name in list(tensors) if "mm_projector" in name}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    raw = json.loads((checkpoint / "config.json").read_text())
    plain = {name: value for name, value in raw.items() if not name.startswith(("mm_", "image_", "tune_", "use_mm"))}
    (folder / "config.json").write_text(json.dumps(plain | {"model_type": "llama"}))
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    return rest


def test_projector_only(checkpoint, llava15, tmp_path):
    rest = language_model_only(checkpoint, tmp_path / "base")
    (checkpoint / "model.safetensors").unlink()
    torch.save(rest, checkpoint / "mm_projector.bin")
    same_answer(load(checkpoint, tmp_path / "base"), llava15)
    with pytest.raises(ValueError, match="only a projector .* model_base"):
        load(checkpoint)
    torch.save({name.removeprefix("model."): tensor for name, tensor in rest.items()}, checkpoint / "mm_projector.bin")
    with pytest.raises(
        ValueError, match=r"missing model.mm_projector.0.bias.*not understood mm_projector.0.bias.*names must be"
    ):
        load(checkpoint, tmp_path / "base")


def test_plain_language_model(checkpoint, tmp_path):
    language_model_only(checkpoint, tmp_path / "base")
    tokenizer, model, processor, _ = load(tmp_path / "base")
    assert processor is None and model.get_vision_tower() is None
    assert model.generate(tokenizer("Hello", return_tensors="pt").input_ids, max_new_tokens=2).shape == (1, 2)


def test_a_base_that_is_not_needed(checkpoint):
    with pytest.raises(ValueError, match="leave model_base out"):
        load(checkpoint, checkpoint)


# ---------------------------------------------------------------------------------------------------- types, devices


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16, "torch.float32"])
def test_tower_and_language_model_agree(dtype, llava15):
    _, model, *_ = load(PARITY15 / "checkpoint", torch_dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {model.dtype}
    assert model.get_vision_tower().dtype == model.dtype == getattr(torch, str(dtype).removeprefix("torch."))
    new = model.generate(**llava15.inputs(llava15.cases()[0]), max_new_tokens=2)
    assert new.shape == (1, 2)


def test_placement(monkeypatch):
    assert placement.placement("auto", "cpu") == ({"": torch.device("cpu")}, torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert placement.placement("auto", None)[1].type == "cpu"
    with pytest.raises(ValueError, match="no CUDA device"):
        placement.placement("auto", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert placement.placement("auto", None) == ("auto", torch.device("cuda"))
    assert placement.placement("auto", "cuda:1")[0] == {"": torch.device("cuda:1")}
    assert placement.dtype_of(None, torch.device("cuda:1")) == torch.float16
    with pytest.raises(ValueError, match="'int8'"):
        placement.dtype_of("int8", torch.device("cpu"))


def test_quantisation(monkeypatch):
    monkeypatch.setattr(placement, "installed", lambda name: False)
    with pytest.raises(ImportError, match="bitsandbytes"):
        load(PARITY15 / "checkpoint", load_4bit=True)
    with pytest.raises(ValueError, match="choose one"):
        load(PARITY15 / "checkpoint", load_4bit=True, load_8bit=True)
    monkeypatch.setattr(placement, "installed", lambda name: True)
    four = placement.quantization(False, True, torch.float16)
    assert (
        four.load_in_4bit and four.bnb_4bit_quant_type == "nf4" and "model.mm_projector" in four.llm_int8_skip_modules
    )
    assert placement.quantization(True, False, torch.float16).load_in_8bit


@pytest.mark.parametrize(
    ("values", "length"),
    [({}, 2048), ({"tokenizer_model_max_length": None}, 4096), ({"max_sequence_length": 777}, 777)],
)
def test_context_length(checkpoint, values, length):
    edit(checkpoint / "config.json", **values)
    assert builder.context_length(builder.read_config(checkpoint)) == length


def test_generation_config_can_be_saved(checkpoint, tmp_path):
    edit(checkpoint / "generation_config.json", temperature=0.9, top_p=0.6, pad_token_id=None)
    _, model, *_ = load(checkpoint)
    settings = model.generation_config
    assert settings.temperature is settings.top_p is None and settings.pad_token_id == 2
    settings.validate(strict=True)


def test_im_start_end_tokens_are_added(checkpoint):
    edit(checkpoint / "config.json", mm_use_im_start_end=True)
    tokenizer, model, *_ = load(checkpoint)
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings == 422


# -------------------------------------------------------------------------------------------------------------- knobs


def test_knobs_reach_the_config(llava15):
    _, model, *_ = load(
        PARITY15 / "checkpoint", use_fast_v=True, fast_v_agg_layer=2, fast_v_attention_rank=9, multimodal=True
    )
    assert model.config.use_fast_v and [stage.name for stage in model.get_model().plan()]
    short = load(PARITY15 / "checkpoint", reduction="fastv@2:9")[1]
    inputs = llava15.inputs(llava15.cases()[0])
    with torch.no_grad():
        logits = [each(**inputs).logits[0, -1] for each in (model, short, llava15.model)]
    assert torch.equal(logits[0], logits[1]) and not torch.allclose(logits[0], logits[2], atol=1e-3)


def names(model):
    return [str(stage) for stage in model.get_model().plan()]


def test_the_plan_of_a_checkpoint_s_config_is_run(checkpoint, llava15):
    edit(checkpoint / "config.json", reduction="fastv@2:9")
    model = load(checkpoint)[1]
    assert names(model) == ["fastv@2:9"]
    passed = load(PARITY15 / "checkpoint", reduction="fastv@2:9")[1]
    inputs = llava15.inputs(llava15.cases()[0])
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, passed(**inputs).logits)
    assert names(load(checkpoint, reduction="divprune:4")[1]) == ["divprune:4"]
    edit(checkpoint / "config.json", reduction="fastv@99:9")
    with pytest.raises(ValueError, match="99"):
        load(checkpoint)


def test_the_plan_of_the_environment_goes_before_the_checkpoint_s_and_behind_a_keyword(checkpoint, monkeypatch):
    edit(checkpoint / "config.json", reduction="fastv@2:9")
    monkeypatch.setenv("LLAVA_REDUCTION", "divprune:4")
    assert names(load(checkpoint)[1]) == ["divprune:4"]
    assert names(load(checkpoint, reduction=None)[1]) == ["divprune:4"]
    assert names(load(checkpoint, reduction="fastv@1:7")[1]) == ["fastv@1:7"]
    assert names(load(checkpoint, reduction="")[1]) == []
    edit(checkpoint / "config.json", reduction=None, use_fast_v=True, fast_v_attention_rank=9)
    with pytest.raises(ValueError, match="divprune:4.*use_fast_v"):
        load(checkpoint)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"fast_v_atention_rank": 3}, "'fast_v_atention_rank'.*did you mean 'fast_v_attention_rank'"),
        ({"atn_implementation": "eager"}, "did you mean 'attn_implementation'"),
        ({"use_fast_v": True, "fast_v_attention_rank": 9, "use_hmap_v": True}, "use_fast_v and use_hmap_v"),
        ({"reduction": "fastv@99:9"}, "99"),
        ({"reduction": "fastw@2:9"}, "did you mean 'fastv'"),
        ({"use_fast_v": "yes"}, "use_fast_v"),
    ],
)
def test_bad_knobs_raise_before_anything_is_loaded(knobs, message, monkeypatch):
    monkeypatch.setattr(builder, "load_whole", lambda *_: pytest.fail("weights were read"))
    with pytest.raises((ValueError, TypeError), match=message):
        load(PARITY15 / "checkpoint", **knobs)


# ------------------------------------------------------------------------------------------------------------- errors


def test_missing_and_unexpected_weights_are_named(checkpoint):
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.mm_projetcor.0.bias"] = tensors.pop("model.mm_projector.0.bias")
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="missing model.mm_projector.0.bias; not understood model.mm_projetcor.0.bias"):
        load(checkpoint)


def test_missing_tower_is_named(checkpoint):
    edit(checkpoint / "config.json", mm_vision_tower="clip-not-here")
    with pytest.raises(FileNotFoundError, match="vision tower 'clip-not-here' not found.*checkpoint/clip-not-here"):
        load(checkpoint)


def test_half_a_tower_is_no_tower(checkpoint):
    file = checkpoint / "clip-tiny-patch14-336" / "model.safetensors"
    tensors = load_file(file)
    del tensors["vision_model.pre_layrnorm.bias"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ValueError, match="clip-tiny-patch14-336 does not fit.*missing pre_layrnorm.bias"):
        load(checkpoint)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "clip-tiny-patch14-336/model.safetensors"])
def test_a_cut_file_is_named(checkpoint, name):
    whole = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{name}.*cut short"):
        load(checkpoint)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.model"])
def test_a_missing_file_is_named(checkpoint, name):
    (checkpoint / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load(checkpoint)


def test_a_missing_folder_is_named(tmp_path):
    for name in (tmp_path / "gone", "nobody/no-such-model"):
        with pytest.raises(FileNotFoundError, match=f"model '{name}' not found"):
            load(name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "llava_mpt"}, "'llava_mpt' is not supported.*ALiBi.*Llama .*Mistral .*Qwen2"),
        ({"model_type": "gemma"}, "'gemma' is not supported; there are Llama"),
    ],
)
def test_other_models_are_refused(checkpoint, values, message):
    edit(checkpoint / "config.json", **values)
    with pytest.raises(ValueError, match=message):
        load(checkpoint)


def test_an_unknown_knob_in_the_config_file(checkpoint):
    edit(checkpoint / "config.json", fast_v_rank=3)
    with pytest.raises(ValueError, match="fast_v_rank"):
        load(checkpoint)
