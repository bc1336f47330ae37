"""Where the files of a model are, whether they are whole, and what tensors they hold.

Names, shapes and types of tensors are read without the tensors, so that a file that is missing, cut or does not fit is
named at once and not after minutes.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llava import files
from llava.shipped import shipped

WEIGHT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
# The kinds of files that decide what a checkpoint answers.
HASHED = (".json", ".model", ".bin", ".safetensors", "merges.txt")
# Keywords of `find_folder` that a download from the hub takes.
HUB_KEYWORDS = ("cache_dir", "token", "revision", "local_files_only")
AGAIN = "it may be cut short or damaged; fetch it again"
# What libraries raise for a damaged file; a lack of memory is not among them.
DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    pickle.UnpicklingError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


# ------------------------------------------------------------------------------------------------------------- folders


def find_folder(name: str | Path, what: str, inside: Iterable[Path] = (), weights: bool = True, **hub: Any) -> Path:
    """The local folder that a path or a hub name means.

    A name that is no folder here may be one that comes with the package (``llava.shipped``). what: the kind of folder, for
    the error message. inside: folders that the name may be relative to, tried first. weights:
    whether a download includes the weights. hub: `HUB_KEYWORDS`, as huggingface_hub takes them. Raises FileNotFoundError
    naming every place that was tried.
    """
    candidates = [*(folder / str(name) for folder in inside), Path(name).expanduser()]
    for folder in (*candidates, shipped(name)):
        if folder.is_dir():
            return folder
    tried = ", ".join(map(str, dict.fromkeys(candidates)))
    if Path(name).is_file():
        raise FileNotFoundError(f"{what} {str(name)!r} is a file; give the folder that holds it")
    if str(name).startswith((".", "/", "~")) or str(name).count("/") > 1:
        raise FileNotFoundError(f"{what} {str(name)!r} not found: no such folder (looked at {tried})")
    try:
        return _download(str(name), weights, hub)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{what} {str(name)!r} not found: no such folder (looked at {tried}), and the hub does not give it "
            f"({type(error).__name__}). Give the path of a local folder."
        ) from error


def _download(name: str, weights: bool, hub: dict[str, Any]) -> Path:
    """A hub model in the local cache: small files first, then its weights in one format, safetensors if there are any."""
    small = ["*.json", "*.model", "*.txt", "mm_projector.bin", "non_lora_trainables.bin", "adapter_model.*"]
    folder = Path(snapshot_download(name, allow_patterns=small, **hub))
    if not weights or (folder / "mm_projector.bin").is_file() and not (folder / WEIGHT_FILES[2]).is_file():
        return folder
    for index in (WEIGHT_FILES[0], WEIGHT_FILES[2]):
        if (folder / index).is_file():
            return Path(snapshot_download(name, allow_patterns=[*small, *_shards(folder / index)], **hub))
    folder = Path(snapshot_download(name, allow_patterns=[*small, WEIGHT_FILES[1]], **hub))
    if not (folder / WEIGHT_FILES[1]).is_file():
        folder = Path(snapshot_download(name, allow_patterns=[*small, WEIGHT_FILES[3]], **hub))
    return folder


def fingerprint(folder: str | Path) -> str:
    """A checksum of a checkpoint: names and whole contents of its configs, tokenizers and weights.

    A name on the hub, which is not a folder, stands for itself. A file is read once per process and again when its size
    or its time of change differs; reading costs about a second for every 1 to 2 GB.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return str(folder)
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.name.endswith(HASHED) and path.is_file()):
        state = path.stat()
        digest = _file_digest(path.resolve(), state.st_size, state.st_mtime_ns)
        total.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
    return total.hexdigest()[:16]


@lru_cache(maxsize=4096)
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file's contents; size and time of change are part of the cache's key."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --------------------------------------------------------------------------------------------------------------- files


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file of a checkpoint. Raises FileNotFoundError or ValueError naming the file."""
    return files.read_json(path, hint=AGAIN)


class errors_naming:  # noqa: N801  reads as a verb after `with`
    """Turns what a library raises for a damaged file or an impossible value into a ValueError that names the source."""

    def __init__(self, source: str | Path, what_to_do: str = AGAIN):
        self.source, self.what_to_do = str(source), what_to_do

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        # tokenizers raises the class Exception itself.
        is_damage = kind is Exception or isinstance(error, DAMAGE)
        if is_damage and not isinstance(error, torch.OutOfMemoryError):
            text = first_lines(error)
            named = text if self.source in text else f"{self.source}: {text}"
            raise ValueError(f"{named}; {self.what_to_do}") from error


def first_lines(error: BaseException | None, most: int = 2) -> str:
    """The beginning of an error's message in one line, or the error's kind."""
    lines = [line.strip() for line in str(error).strip().split("\n")]
    return " ".join(lines[:most])[:300] or type(error).__name__


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a whole model's weights in one of the four usual files."""
    return any((folder / name).is_file() for name in WEIGHT_FILES)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a whole model's weights.

    Raises FileNotFoundError for a folder without weights or an index that lists a missing file, ValueError for an index
    that is not valid or that leads out of the folder.
    """
    for name in WEIGHT_FILES:
        path = folder / name
        if not path.is_file():
            continue
        shards = _shards(path) if name.endswith(".json") else [name]
        absent = [shard for shard in shards if not (folder / shard).is_file()]
        if absent:
            raise FileNotFoundError(f"{path} lists {listed(absent)}, which {folder} does not hold")
        return [folder / shard for shard in shards]
    raise FileNotFoundError(f"{folder} holds no weights: none of {', '.join(WEIGHT_FILES)} is there")


def _shards(index: Path) -> list[str]:
    """The weight files that an index lists, by their names inside its folder."""
    weight_map = read_json(index).get("weight_map")
    shards = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not shards or not all(isinstance(shard, str) for shard in shards):
        raise ValueError(f"{index} has no weight_map from tensors to files; {AGAIN}")
    shards = sorted(set(shards))
    outside = [shard for shard in shards if _leaves_folder(shard)]
    if outside:
        raise ValueError(f"{index} lists {listed(outside)}, outside of its folder; do not use this checkpoint")
    return shards


def _leaves_folder(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in name


# ------------------------------------------------------------------------------------------------------------- tensors


class TensorHeader(NamedTuple):
    """What a weight file says about a tensor without reading it."""

    shape: tuple[int, ...]
    is_float: bool


def weight_headers(folder: Path) -> dict[str, TensorHeader]:
    """Shape and type of all tensors in a checkpoint folder; every file is opened once and no tensor is read.

    Raises as `weight_files` does, and ValueError naming a file that is cut short or not a weight file.
    """
    headers: dict[str, TensorHeader] = {}
    for path in weight_files(folder):
        headers |= tensor_headers(path)
    return headers


def weight_names(folder: Path) -> set[str]:
    """The names of all tensors in a checkpoint folder; see `weight_headers`."""
    return set(weight_headers(folder))


def tensor_headers(path: Path) -> dict[str, TensorHeader]:
    """Shape and type of all tensors of one .bin or .safetensors file. Raises FileNotFoundError or ValueError naming it."""
    if path.suffix != ".safetensors":
        return headers_of(_torch_load(path, map_location="meta"))
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not a dict
        return {name: TensorHeader(tuple(part.get_shape()), "F" in part.get_dtype()) for name, part in slices.items()}


def headers_of(tensors: dict[str, Tensor]) -> dict[str, TensorHeader]:
    """Shape and type of tensors at hand."""
    return {name: TensorHeader(tuple(tensor.shape), tensor.is_floating_point()) for name, tensor in tensors.items()}


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one .bin or .safetensors file, on the CPU. Raises FileNotFoundError or ValueError naming it."""
    if path.suffix != ".safetensors":
        return _torch_load(path, map_location="cpu")
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict


def stored_tensors(folder: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
    """Name and content, as stored, of the tensors of a checkpoint that are wanted; one at a time is in memory.

    Raises as `weight_files` and `load_tensors` do.
    """
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            with _opened(path) as file:
                yield from ((name, file.get_tensor(name)) for name in file.keys() if wanted(name))  # noqa: SIM118
        else:
            yield from ((name, tensor) for name, tensor in load_tensors(path).items() if wanted(name))


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is cut short or damaged ({error}); fetch it again") from error


def _torch_load(path: Path, map_location: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        # Only a zip archive, which is what torch has written since 1.6, can be mapped instead of read.
        tensors = torch.load(path, map_location=map_location, weights_only=True, mmap=zipfile.is_zipfile(path))
    except DAMAGE as error:
        raise ValueError(f"{path} is cut short or damaged ({first_lines(error, 1)}); fetch it again") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ValueError(f"{path} holds no tensors by name; give a file that torch.save made of a state_dict")
    return tensors


# ---------------------------------------------------------------------------------------------------------- comparison


def check_tensors(
    source: Path,
    held: dict[str, TensorHeader],
    wanted: dict[str, tuple[int, ...]],
    optional: tuple[str, ...] = (),
    hint: str = "",
) -> None:
    """Raises ValueError naming what `source` lacks, what no part of the model asks for, and what has another shape or type.

    held: what the source has. wanted: the shapes of the model's tensors; those whose names begin with one of `optional` may
    be missing. hint: added to the error.
    """
    missing = [name for name in wanted if name not in held and not name.startswith(optional)]
    unexpected = [name for name in held if name not in wanted]
    common = [name for name in wanted if name in held]
    unfit = [
        f"{name} of shape {held[name].shape} where the model has {wanted[name]}"
        for name in common
        if held[name].shape != wanted[name]
    ]
    unfit += [f"{name}, which holds whole numbers" for name in common if not held[name].is_float]
    if missing or unexpected or unfit:
        other = f"; unfit {listed(unfit)}" if unfit else ""
        raise ValueError(
            f"{source} does not fit the model its config describes: missing {listed(missing)}; "
            f"not understood {listed(unexpected)}{other}{hint}"
        )


def check_depth(source: Path, names: Iterable[str], layer: str, depth: int, field: str) -> None:
    """Refuses a config with more layers than the source has: to build thousands of them would take minutes.

    layer: what the names of a layer's tensors begin with, before its number. depth: how many the config's `field` asks for.
    """
    numbers = {name.removeprefix(layer).partition(".")[0] for name in names if name.startswith(layer)}
    if depth > len(numbers):
        absent = next(number for number in range(depth) if str(number) not in numbers)
        raise ValueError(
            f"{source} does not fit the model its config describes: {field}={depth}, but it holds {len(numbers)} layers; "
            f"missing {layer}{absent}.* and perhaps more"
        )


def fill(
    module: torch.nn.Module, tensors: dict[str, Tensor], source: Path, part: tuple[str, ...], hint: str = ""
) -> None:
    """Copies tensors of a file into the module whose names they bear; of those that begin with one of `part`, none may be missing.

    Raises ValueError as `check_tensors` does.
    """
    state = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    wanted = {name: shape for name, shape in state.items() if name in tensors or name.startswith(part)}
    check_tensors(source, headers_of(tensors), wanted)
    module.load_state_dict(tensors, strict=False)


@contextmanager
def no_loading_report() -> Iterator[None]:
    """Suppresses transformers' table of missing weights: what may be missing is filled later or starts as identity."""

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names for an error message, sorted, at most ``most`` of them; "nothing" if there are none."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "nothing"
