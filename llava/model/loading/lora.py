"""A LoRA merged into the model it belongs to, and the weights that were trained next to it.

Every tensor of an adapter must find its place and every place that the adapter names must get its tensors: peft itself only
warns.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from llava.files import excerpt
from llava.model.checkpoint import errors_naming, fill, listed, load_tensors, read_json, stored_tensors
from llava.model.language_model.llava_family import LlavaFamilyForCausalLM
from llava.model.loading.layout import TOWER, hf_name, own_name
from llava.model.loading.weights import PROJECTION, UNTRAINED
from llava.utils import installed

if TYPE_CHECKING:
    from peft import LoraConfig

LORA_FILE = "adapter_config.json"
NON_LORA_FILE = "non_lora_trainables.bin"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")

PREFIX = "base_model.model."  # what peft puts in front of every name
GROWN = 8  # rows that a vocabulary may grow by without weights for them: the tokens that mark images

# Parts that an adapter may leave out as a whole, though the last names of their modules are those of the decoder's.
_SEPARATE = (TOWER, *PROJECTION, *UNTRAINED)


def check_peft(folder: Path) -> None:
    """Raises ImportError naming the extra to install where peft is absent."""
    if not installed("peft"):
        raise ImportError(f"{folder} is a LoRA, which needs peft: pip install 'llava-condense[lora]'")


def grow_vocabulary(model: LlavaFamilyForCausalLM, rows: int, folder: Path) -> None:
    """Gives the embeddings as many rows as the LoRA's config names.

    Raises ValueError for many new rows that no weights of the folder fill.
    """
    old = model.config.vocab_size
    if rows == old:
        return
    if rows > old + GROWN:
        tensors = [*adapter_tensors(folder).values(), *_beside(folder).values()]
        if not any(tensor.ndim == 2 and len(tensor) == rows for tensor in tensors):
            raise ValueError(
                f"{folder / 'config.json'}: vocab_size={rows}, but the base has {old} and no weights are new"
            )
    model.resize_token_embeddings(rows)


def fill_beside(model: LlavaFamilyForCausalLM, folder: Path, base: Path, base_names: Iterable[str]) -> None:
    """Fills in what was trained next to a LoRA; a projector that is not among it must be the base's.

    Raises ValueError naming the tensors that fit nothing, and those of a projector that neither folder has.
    """
    tensors = _beside(folder)
    needed = [name for name in model.state_dict() if name.startswith(PROJECTION)]
    missing = set(needed) - set(tensors) - set(base_names)
    if missing and not tensors.keys() & set(needed):
        raise ValueError(
            f"neither {folder / NON_LORA_FILE} nor {base} holds a projector: missing {listed(missing)}; give a base that "
            "has one, or the file that was saved next to the LoRA"
        )
    fill(model, tensors, folder / NON_LORA_FILE, tuple(missing))


def _beside(folder: Path) -> dict[str, Tensor]:
    """The tensors of `non_lora_trainables.bin` by their names in the model; none where it is absent, as peft saves."""
    if not (folder / NON_LORA_FILE).is_file():
        return {}
    tensors = {
        name.removeprefix("base_model."): tensor for name, tensor in load_tensors(folder / NON_LORA_FILE).items()
    }
    if any(name.startswith("model.model.") for name in tensors):
        tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    return {own_name(name): tensor for name, tensor in tensors.items()}


def adapter_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter by their names in the model, without peft's prefix.

    Raises FileNotFoundError for a folder without any, ValueError for a damaged file, a name that is not peft's, and two
    names that mean one tensor.
    """
    path = next((folder / name for name in ADAPTER_FILES if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{folder} holds {LORA_FILE} but no weights: none of {', '.join(ADAPTER_FILES)} is there"
        )
    stored = load_tensors(path)
    foreign = [name for name in stored if not name.startswith(PREFIX)]
    # Of embeddings that it reaches, peft saves the whole matrix as well.
    plain = {name: name.removeprefix(PREFIX).replace(".base_layer.", ".") for name in stored}
    tensors = {own_name(plain[name]): tensor for name, tensor in stored.items()}
    if foreign or not stored or len(tensors) < len(stored):
        raise ValueError(f"{path} is not an adapter as peft saves one: not understood {listed(foreign or stored)}")
    return tensors


def merge_lora(model: LlavaFamilyForCausalLM, folder: Path, base: Path) -> LlavaFamilyForCausalLM:
    """The model with an adapter merged into its weights, each sum in float32 from the weights as `base` stores them.

    The adapter may reach decoder, projector, tower, embeddings and head, under the names of LLaVA or of transformers' own
    class, and hold whole modules. Raises ValueError naming the tensors that are missing, unexpected or of another shape, and
    where layers are offloaded.
    """
    from peft import PeftModel, set_peft_model_state_dict

    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError(f"{folder} is a LoRA, which cannot be merged into offloaded layers; give device='cpu'")
    config, tensors = read_adapter_config(folder), adapter_tensors(folder)
    whole = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    _fill_whole_modules(model, whole, config.modules_to_save or (), folder)
    tensors = {name: tensor for name, tensor in tensors.items() if name not in whole}
    modules = {name.partition(".lora_")[0] for name in tensors}
    if not modules:
        return model
    missing = _targeted(model, config, modules) - modules
    unknown = modules - {name for name, _ in model.named_modules()}
    if missing or unknown:
        raise ValueError(f"{folder} has no LoRA of {listed(missing)}; not understood {listed(unknown)}")
    # The tensors decide, so their whole names stand in place of a pattern.
    config.target_modules, config.modules_to_save = sorted(modules), None
    with errors_naming(folder, "it does not belong to this base, or is damaged"):
        wrapped = PeftModel(model, config)
        loaded = set_peft_model_state_dict(wrapped, {PREFIX + name: tensor for name, tensor in tensors.items()})
    missing = {name for name in loaded.missing_keys if "lora_" in name}
    if missing or loaded.unexpected_keys:
        raise ValueError(f"{folder}: missing {listed(missing)}; not understood {listed(loaded.unexpected_keys)}")
    _merge(model, base)
    return wrapped.unload()


def _merge(model: nn.Module, base: Path) -> None:
    """Merges every layer; where loading rounded the weights, into those that are stored, so that each is rounded once."""
    from peft.tuners.lora import LoraLayer

    layers = {f"{name}.weight": layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    for name, stored in stored_tensors(base, lambda name: own_name(name) in layers):
        layer = layers[own_name(name)]
        weight: Any = layer.get_base_layer().weight
        rounded = weight.dtype
        if rounded in (torch.float16, torch.bfloat16) and weight.shape == stored.shape:
            weight.data = stored.to(weight.device, torch.float32)
            layer.merge()
            weight.data = weight.data.to(rounded)
    for layer in layers.values():
        if not layer.merged:
            # peft keeps the LoRA in float32 and adds it in float32.
            layer.merge()


def _fill_whole_modules(
    model: LlavaFamilyForCausalLM, tensors: dict[str, Tensor], names: Iterable[str], folder: Path
) -> None:
    """Fills in the modules that an adapter holds whole; of those it names none may be missing."""
    own = [{"multi_modal_projector": "mm_projector"}.get(name, name).split(".") for name in names]
    saved = tuple(key for key in model.state_dict() if any(_holds(key.split("."), parts) for parts in own))
    head, embeddings = (tensors.get(name) for name in ("lm_head.weight", "model.embed_tokens.weight"))
    if model.config.tie_word_embeddings and head is not None and (embeddings is None or not head.equal(embeddings)):
        raise ValueError(
            f"{folder} holds an lm_head of its own, but the base ties it to embed_tokens; merge it with peft"
        )
    fill(model, tensors, folder, saved)


def _holds(path: list[str], parts: list[str]) -> bool:
    """Whether a name, split at its dots, has these parts in a row."""
    return any(path[start : start + len(parts)] == parts for start in range(len(path)))


def read_adapter_config(folder: Path) -> LoraConfig:
    """The adapter's config, ready to be merged. Raises ValueError naming the file for another kind of adapter."""
    from peft import LoraConfig

    path = folder / LORA_FILE
    raw = read_json(path)
    if raw.get("peft_type") != "LORA":
        raise ValueError(f"{path}: peft_type={excerpt(raw.get('peft_type'))} is not supported; only LORA is")
    if raw.get("layer_replication"):
        raise ValueError(f"{path}: layer_replication is not supported; merge the adapter with peft")
    with errors_naming(path):
        config = cast(LoraConfig, LoraConfig.from_pretrained(str(folder)))  # annotated as a PeftConfig
    config.task_type = config.base_model_name_or_path = None
    config.init_lora_weights, config.inference_mode = True, True
    for name in ("rank_pattern", "alpha_pattern"):
        setattr(config, name, {own_name(key): value for key, value in getattr(config, name).items()})
    return config


def _targeted(model: nn.Module, config: Any, modules: set[str]) -> set[str]:
    """The modules that the adapter's config names; of separate parts only those that it has tensors for."""
    from peft.tuners.tuners_utils import check_target_module_exists

    if config.target_modules is None:
        return set()
    absent = tuple(part for part in _SEPARATE if not any(name.startswith(part) for name in modules))
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding) and not name.startswith(absent)
        if any(check_target_module_exists(config, alias) for alias in dict.fromkeys((name, hf_name(name))))
    }
