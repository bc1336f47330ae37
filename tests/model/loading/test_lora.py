"""LoRAs through peft itself: applied whole and exactly, or refused by the names that do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from llava.model.builder import load_pretrained_model
from llava.model.loading import lora
from tests.conftest import PARITY15

BASE = PARITY15 / "checkpoint"
TARGETS = r"model\.layers\.\d+\.self_attn\.(q|v)_proj"
Tensors = dict[str, Tensor]


def load(folder: Path, base: Path = BASE, **more):
    return load_pretrained_model(folder, base, device="cpu", **more)[1]


def make(folder: Path, beside: bool = True, **options) -> Tensors:
    """Saves a random adapter as LLaVA does; returns all weights of the model it belongs to, merged by hand in float32."""
    torch.manual_seed(0)
    model = load(BASE, None)
    model.config.save_pretrained(folder)
    rest = {f"base_model.model.{name}": w.clone() for name, w in model.state_dict().items() if "mm_projector" in name}
    merged = {name: weight.clone() for name, weight in model.state_dict().items()}
    wrapped = get_peft_model(model, LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": TARGETS} | options))
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:
            weight.data.normal_(0, 0.05)
    with torch.no_grad():
        for name, module in model.named_modules():
            if hasattr(module, "lora_A") and "default" in module.lora_A:
                a, b = (getattr(module, part)["default"].weight for part in ("lora_A", "lora_B"))
                merged[f"{name}.weight"] += (b @ a) * module.scaling["default"]
    wrapped.save_pretrained(folder)
    if beside:
        torch.save(rest, folder / "non_lora_trainables.bin")
    return merged


def change(folder: Path, edit: Callable[[Tensors], Tensors]) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in edit(load_file(file)).items()}, file, {"format": "pt"})


def edit_config(folder: Path, name: str = "adapter_config.json", **values) -> None:
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))


def assert_same(model: torch.nn.Module, wanted: Tensors, atol: float = 1e-6) -> None:
    state = model.state_dict()
    for name, tensor in wanted.items():
        torch.testing.assert_close(
            state[name].float(), tensor, atol=atol, rtol=0, msg=lambda text, name=name: f"{name} {text}"
        )


# ------------------------------------------------------------------------------------------------------------ it fits


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"alpha_pattern": {"v_proj": 32}, "rank_pattern": {"q_proj": 4}}]
)
def test_merged_as_by_hand(tmp_path, options):
    wanted = make(tmp_path, **options)
    model = load(tmp_path)
    assert_same(model, wanted)
    assert type(model).__name__ == "LlavaLlamaForCausalLM" and not any("lora" in name for name in model.state_dict())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("stored", ["safetensors", "bin"])
def test_merged_in_float32(tmp_path, checkpoint, dtype, stored):
    """Into the weights as they are stored: rounded once, not when loaded, when multiplied and when added."""
    wanted = make(tmp_path / "lora")
    if stored == "bin":
        torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
        (checkpoint / "model.safetensors").unlink()
    for name, tensor in load(tmp_path / "lora", checkpoint, torch_dtype=dtype).state_dict().items():
        assert torch.equal(tensor, wanted[name].to(tensor.dtype)), name


@pytest.mark.parametrize("pattern", [r".*self_attn\.q_proj", ["q_proj", "mm_projector.0", "lm_head"]])
def test_tower_projector_and_head_are_reached_too(tmp_path, pattern):
    wanted = make(tmp_path, beside=False, target_modules=pattern)
    assert any("vision_tower" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    assert_same(load(tmp_path), wanted)


def test_a_tower_that_the_adapter_leaves_out(tmp_path):
    """LLaVA adds the tower after the adapter: then the last names of the targets do not mean the tower's."""
    wanted = make(tmp_path, target_modules=["q_proj"])
    change(tmp_path, lambda tensors: {name: tensor for name, tensor in tensors.items() if "vision_tower" not in name})
    before = load(BASE, None).state_dict()
    assert_same(load(tmp_path), {name: before[name] if "vision_tower" in name else w for name, w in wanted.items()})


@pytest.mark.parametrize("decoder", ["model.language_model.layers", "language_model.model.layers"])
def test_names_of_transformers_own_class(tmp_path, decoder):
    wanted = make(tmp_path, target_modules=r".*self_attn\.(q|v)_proj")
    change(
        tmp_path,
        lambda tensors: {
            name.replace(".model.layers", f".{decoder}").replace(
                "model.vision_tower.vision_tower.", "model.vision_tower.vision_model."
            ): tensor
            for name, tensor in tensors.items()
        },
    )
    assert_same(load(tmp_path), wanted)


@pytest.mark.parametrize("file", ["kept", "empty", "absent"])
def test_a_projector_that_did_not_learn_is_the_bases(tmp_path, file):
    wanted = make(tmp_path, beside=file == "kept")
    if file == "empty":
        torch.save({}, tmp_path / "non_lora_trainables.bin")
    assert_same(load(tmp_path), wanted)


def test_an_adapter_that_peft_alone_has_saved(tmp_path):
    """No config.json, no non_lora_trainables.bin: everything but the adapter is the base's."""
    wanted = make(tmp_path, beside=False)
    (tmp_path / "config.json").unlink()
    assert_same(load(tmp_path), wanted)


def test_whole_modules_of_an_adapter(tmp_path):
    make(tmp_path, modules_to_save=["lm_head"])
    change(tmp_path, lambda tensors: tensors | {"base_model.model.lm_head.weight": torch.ones(420, 64)})
    assert load(tmp_path).lm_head.weight.eq(1).all()
    edit_config(tmp_path, modules_to_save=["lm_head", "norm"])
    with pytest.raises(ValueError, match="missing model.norm.weight"):
        load(tmp_path)


def test_saved_and_loaded_again(tmp_path):
    wanted = make(tmp_path / "lora", target_modules=r".*self_attn\.q_proj")
    model = load(tmp_path / "lora")
    model.save_pretrained(tmp_path / "whole")
    shutil.copy(BASE / "tokenizer.model", tmp_path / "whole")
    assert_same(load(tmp_path / "whole", None), wanted)


def test_more_words_than_its_base(tmp_path):
    make(tmp_path)
    edit_config(tmp_path, "config.json", vocab_size=423)
    model = load(tmp_path)
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == 423
    edit_config(tmp_path, "config.json", vocab_size=10**9)
    with pytest.raises(ValueError, match="vocab_size=1000000000, but the base has 420"):
        load(tmp_path)


# ------------------------------------------------------------------------------------------------------ it does not fit


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


def with_more(name: str, *shape: int) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: torch.zeros(shape)}


LAYER = "base_model.model.model.layers.0.self_attn"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            renamed("model.model.layers", "model.decoder.layers"),
            "not understood decoder.layers.0.self_attn.q_proj",
        ),
        (renamed("base_model.model.", ""), "not understood model.layers.0"),
        (renamed("layers.7.", "layers.8."), "no LoRA of model.layers.7.*not understood model.layers.8"),
        (without(".layers.0."), "no LoRA of model.layers.0.self_attn.q_proj, model.layers.0.self_attn.v_proj"),
        (without(f"{LAYER}.q_proj.lora_B"), "missing base_model.model.model.layers.0.self_attn.q_proj.lora_B"),
        (with_more(f"{LAYER}.q_proj.lora_C.weight", 2, 2), "not understood .*lora_C"),
        (with_more(f"{LAYER}.z_proj.lora_A.weight", 2, 64), "not understood model.layers.0.self_attn.z_proj"),
        (with_more("base_model.model.model.norn.weight", 64), "not understood model.norn.weight"),
        (with_more("base_model.model.model.norm.weight", 63), "model.norm.weight of shape"),
        (with_more(f"{LAYER}.q_proj.lora_A.weight", 3, 64), "size mismatch.*q_proj.lora_A"),
        (lambda tensors: {}, "not understood nothing"),
    ],
)
def test_every_tensor_finds_its_place_or_is_named(tmp_path, edit, message):
    make(tmp_path)
    change(tmp_path, edit)
    with pytest.raises(ValueError, match=message) as raised:
        load(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_half_a_tower_is_named(tmp_path):
    make(tmp_path, target_modules=r".*self_attn\.q_proj")
    change(tmp_path, without("vision_tower.encoder.layers.0."))
    with pytest.raises(ValueError, match="no LoRA of model.vision_tower.vision_tower.encoder.layers.0"):
        load(tmp_path)


def test_numbers_that_are_none(tmp_path):
    make(tmp_path)
    change(tmp_path, lambda tensors: {name: tensor * torch.nan for name, tensor in tensors.items()})
    with pytest.raises(ValueError, match="not finite in model.layers"):
        load(tmp_path)


def test_weights_next_to_the_adapter_must_fit(tmp_path):
    make(tmp_path)
    file = tmp_path / "non_lora_trainables.bin"
    torch.save({"base_model.model.model.mm_projetcor.0.bias": torch.zeros(64)}, file)
    with pytest.raises(ValueError, match="not understood model.mm_projetcor.0.bias"):
        load(tmp_path)
    torch.save({"base_model.model.model.mm_projector.0.bias": torch.zeros(63)}, file)
    with pytest.raises(ValueError, match="mm_projector.0.bias of shape"):
        load(tmp_path)


def test_a_projector_that_nobody_has(tmp_path, checkpoint):
    make(tmp_path / "lora", beside=False)
    tensors = load_file(checkpoint / "model.safetensors")
    save_file(without("mm_projector")(tensors), checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="neither .*non_lora_trainables.bin nor .* missing model.mm_projector.0.bias"):
        load(tmp_path / "lora", checkpoint)


class Payload:
    """Would make a file if it were unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["adapter_model.bin", "non_lora_trainables.bin"])
def test_a_pickle_is_never_run(tmp_path, name):
    make(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink(
        missing_ok=name == "adapter_model.bin"
    ) if name == "adapter_model.bin" else None
    torch.save({"base_model.model.x": Payload(tmp_path / "run")}, tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} is cut short or damaged"):
        load(tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_an_adapter(tmp_path):
    make(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="none of adapter_model.safetensors, adapter_model.bin"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"peft_type": None}, "peft_type=None"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "layer_replication"),
        ({"r": "two"}, "adapter_config.json|does not belong"),
    ],
)
def test_other_adapters_are_refused(tmp_path, values, message):
    make(tmp_path)
    edit_config(tmp_path, **values)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_peft_is_named_where_it_is_absent(tmp_path, monkeypatch):
    make(tmp_path)
    monkeypatch.setattr(lora, "installed", lambda name: False)
    with pytest.raises(ImportError, match=r"pip install 'llava-condense\[lora\]'"):
        load(tmp_path)
    with pytest.raises(ValueError, match="only a LoRA .* model_base"):
        load(tmp_path, None)


def test_offloaded_layers_are_refused(tmp_path):
    make(tmp_path)
    model = torch.nn.Linear(2, 2, device="meta")
    with pytest.raises(ValueError, match="offloaded"):
        lora.merge_lora(SimpleNamespace(parameters=model.parameters), tmp_path, BASE)
