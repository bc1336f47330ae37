"""Where the files of a model are, and whether they are whole.

Everything is checked before a model is built, so that a missing or cut file is named at once and not after minutes.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

WEIGHT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
# The kinds of files that decide what a checkpoint answers.
HASHED = (".json", ".model", ".bin", ".safetensors")


def find_folder(name: str | Path, what: str, inside: Iterable[Path] = (), weights: bool = True) -> Path:
    """The local folder that a path or a hub name means.

    what: what is looked for, for the error message. inside: folders the name may be relative to, tried first. weights:
    whether a download includes the weights. Raises FileNotFoundError naming every place that was looked at.
    """
    places = [*(folder / str(name) for folder in inside), Path(name).expanduser()]
    for place in places:
        if place.is_dir():
            return place
    tried = ", ".join(map(str, dict.fromkeys(places)))
    if Path(name).is_file():
        raise FileNotFoundError(f"{what} {str(name)!r} is a file; give the folder that holds it")
    if str(name).startswith((".", "/", "~")) or str(name).count("/") > 1:
        raise FileNotFoundError(f"{what} {str(name)!r} not found: no such folder (looked at {tried})")
    try:
        return _download(str(name), weights)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{what} {str(name)!r} not found: no such folder (looked at {tried}), and the hub does not give it "
            f"({type(error).__name__}). Give the path of a local folder."
        ) from error


def _download(name: str, weights: bool) -> Path:
    """A hub model in the local cache: small files first, then its weights in one format, safetensors if there are any."""
    small = ["*.json", "*.model", "*.txt", "mm_projector.bin", "non_lora_trainables.bin", "adapter_model.*"]
    folder = Path(snapshot_download(name, allow_patterns=small))
    if not weights or (folder / "mm_projector.bin").is_file() and not (folder / WEIGHT_FILES[2]).is_file():
        return folder
    for index in (WEIGHT_FILES[0], WEIGHT_FILES[2]):
        if (folder / index).is_file():
            shards = sorted(set(read_json(folder / index)["weight_map"].values()))
            return Path(snapshot_download(name, allow_patterns=[*small, *shards]))
    folder = Path(snapshot_download(name, allow_patterns=[*small, WEIGHT_FILES[1]]))
    if not (folder / WEIGHT_FILES[1]).is_file():
        folder = Path(snapshot_download(name, allow_patterns=[*small, WEIGHT_FILES[3]]))
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file. Raises FileNotFoundError or ValueError naming it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON, perhaps cut short: {error}") from error


def fingerprint(folder: str | Path) -> str:
    """A checksum of a checkpoint: names and whole contents of its configs, tokenizers and weights.

    A name that is no folder, one of the hub, stands for itself. A file is read once per process and again when its size or
    its time of change differs; reading costs about a second for every 1 to 2 GB.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return str(folder)
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in HASHED and path.is_file()):
        state = path.stat()
        digest = _file_digest(path.resolve(), state.st_size, state.st_mtime_ns)
        total.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
    return total.hexdigest()[:16]


@lru_cache(maxsize=4096)
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file's contents; size and time of change are part of the cache's key."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a whole model's weights in one of the four usual files."""
    return any((folder / name).is_file() for name in WEIGHT_FILES)


def weight_names(folder: Path) -> set[str]:
    """The names of all tensors in a checkpoint folder, every file opened once but no tensor read.

    Raises FileNotFoundError for a folder without weights or an index that lists a missing file, ValueError for a file
    that is cut short or not a weight file; both name it.
    """
    for name in WEIGHT_FILES:
        path = folder / name
        if not path.is_file():
            continue
        files = sorted(set(read_json(path)["weight_map"].values())) if name.endswith(".json") else [name]
        absent = [file for file in files if not (folder / file).is_file()]
        if absent:
            raise FileNotFoundError(f"{path} lists {', '.join(absent)}, which {folder} does not hold")
        return set().union(*(_tensor_names(folder / file) for file in files))
    raise FileNotFoundError(f"{folder} holds no weights: none of {', '.join(WEIGHT_FILES)} is there")


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one .bin or .safetensors file, on the CPU. Raises as `weight_names` does."""
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    return _torch_load(path, map_location="cpu")


def _tensor_names(path: Path) -> set[str]:
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            return set(file.keys())
    return set(_torch_load(path, map_location="meta"))


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is cut short or damaged ({error}); fetch it again") from error


def _torch_load(path: Path, map_location: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        # Only a zip archive, which is what torch has written since 1.6, can be mapped instead of read.
        return torch.load(path, map_location=map_location, weights_only=True, mmap=zipfile.is_zipfile(path))
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is cut short or damaged ({error}); fetch it again") from error
