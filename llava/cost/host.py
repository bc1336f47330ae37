"""Which model is counted: a preset by its name, or any ``config.json`` of a family that is known. No weights are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from llava.files import read_json, read_yaml
from llava.model.loading.families import family_of
from llava.reduction import did_you_mean
from llava.shipped import shipped

from . import families  # noqa: F401  registers every family
from .families.base import FAMILIES, Family
from .families.own import OwnLlava

PRESETS = Path(__file__).with_name("presets.yaml")
# Decoders whose layers compute Llama's products: four projections and a gated FFN.
DECODERS = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text",
)  # fmt: skip
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class Host:
    """A model to count: its name, the checkpoint whose sizes these are, and its family opened on its config."""

    name: str
    checkpoint: str
    family: Family

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return self.family.text.num_hidden_layers


def preset_names() -> list[str]:
    """The presets, in the order of their file."""
    return list(_presets()["hosts"])


def presets() -> Iterator[Host]:
    """Every preset, opened."""
    return map(preset, preset_names())


def preset(name: str, processor: Mapping[str, int] | None = None) -> Host:
    """A common checkpoint by its short name; ``processor``: other settings of its image processor.

    Raises ValueError for a name that is not known, with the nearest that are.
    """
    known = _presets()["hosts"]
    if name not in known:
        raise ValueError(
            f"host {name!r} is not known{did_you_mean(name, known)}; --list prints the presets, and --config reads any"
            " config.json"
        )
    entry = known[name]
    return _open(name, entry["checkpoint"], entry["config"], entry.get("processor", {}), processor or {})


def from_config(path: str | Path, processor: Mapping[str, int] | None = None) -> Host:
    """The model of a ``config.json``, or of the folder that holds one, with the ``preprocessor_config.json`` beside it.

    Reads transformers' layout and LLaVA's own. Raises FileNotFoundError, and ValueError for a family that is not known.
    """
    file = shipped(path)
    file = file / "config.json" if file.is_dir() else file
    beside = file.with_name("preprocessor_config.json")
    settings = read_json(beside) if beside.is_file() else {}
    name = file.parent.name if file.name == "config.json" and file.parent.name else file.stem
    return _open(name, str(path), read_json(file), settings, processor or {}, file.parent)


def _open(
    name: str,
    checkpoint: str,
    content: Mapping[str, Any],
    found: Mapping[str, Any],
    given: Mapping[str, int],
    folder: Path | None = None,
) -> Host:
    model_type: Any = content.get("model_type")
    own = family_of(model_type) if isinstance(content.get("mm_vision_tower"), str) else None
    if own is None and model_type not in FAMILIES:
        raise ValueError(
            f"{name}: model_type={model_type!r} cannot be counted{did_you_mean(str(model_type), FAMILIES)}; these can: "
            f"{', '.join(sorted(FAMILIES))}"
        )
    if own is None:
        family, config = FAMILIES[model_type], _stock_config(name, model_type, content)
    else:
        family, config = OwnLlava, _own_config(name, own.name.lower(), content, folder)
    check_decoder(name, config.text_config)
    family.check_settings(given)
    return Host(name, checkpoint, family(config, {**found, **given}))


def _stock_config(name: str, model_type: str, content: Mapping[str, Any]) -> Any:
    if FAMILIES[model_type] is OwnLlava:
        raise ValueError(f"{name}: model_type={model_type!r} names no tower; set mm_vision_tower")
    tower = content.get("vision_config")
    if isinstance(tower, str):
        content = {**content, "vision_config": dict(_tower(name, tower, None))}
    return _config(name, model_type, content)


def _own_config(name: str, decoder: str, content: Mapping[str, Any], folder: Path | None) -> Any:
    """A flat config of LLaVA: that of its decoder, with its tower's beside it as ``vision_config``."""
    content = {key: value for key, value in content.items() if key not in ("model_type", "vision_config")}
    config: Any = _config(name, decoder, content)
    tower = dict(content.get("mm_vision_config") or _tower(name, content["mm_vision_tower"], folder))
    config.vision_config = _config(name, tower.get("model_type", "clip_vision_model"), tower)
    config.text_config = config
    return config


def _tower(name: str, tower: str, folder: Path | None) -> Mapping[str, Any]:
    """A tower's config, from the folder beside the checkpoint's or from those that are known by name."""
    known = _presets()["towers"]
    for path in [Path(tower), *([folder / tower] if folder else [])]:
        if (path / "config.json").is_file():
            content = read_json(path / "config.json")
            return content.get("vision_config") or content
    if tower not in known:
        raise ValueError(
            f"{name}: the sizes of the tower {tower!r} are not known{did_you_mean(tower, known)}; put its config.json beside"
            " the checkpoint's, or into mm_vision_config"
        )
    return known[tower]


def _config(name: str, model_type: str, content: Mapping[str, Any]) -> PreTrainedConfig:
    """A config of transformers. Raises ValueError where its class refuses a value."""
    values = {key: value for key, value in content.items() if key not in ("model_type", "transformers_version")}
    try:
        return CONFIG_MAPPING[model_type].from_dict(values)
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{name}: transformers cannot read this {model_type!r} config: {error}") from error


def check_decoder(name: str, text: Any) -> None:
    """Raises ValueError for a decoder whose matrix products are not a Llama's, or whose sizes are missing."""
    experts = [field for field in EXPERTS if getattr(text, field, None)]
    if experts or text.model_type not in DECODERS:
        why = "a mixture of experts" if experts else "not known"
        raise ValueError(
            f"{name}: the decoder {text.model_type!r} is {why} and cannot be counted; these can: {DECODERS}"
        )
    for field in SIZES:
        value = getattr(text, field, None)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: {field}={value!r} of the decoder must be a whole number of at least 1")


@cache
def _presets() -> dict[str, Any]:
    return read_yaml(PRESETS)
