"""A run's folder: what was asked, what was answered, what it cost; resumable, and enough for a report without a model.

=======================  ==========================================================================================
``config.yaml``          everything that decides the answers, resolved; a rerun must agree with it
``environment.json``     versions, machine, threads, commit
``predictions.jsonl``    one line a question, appended as it is answered; in the benchmark's order when all are there
``predictions.N.jsonl``  what a further process has answered, until the first gathers it
``metrics.json``         scores, written when every question has its line
``cost.json``            means over the questions: visual tokens per layer, FLOPs, KV bytes, milliseconds
=======================  ==========================================================================================
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import yaml

from ..tasks.base import Line

FORMAT = 1  # of the folder; raised when older folders can no longer be read
ROOM = 32 * 2**20  # free bytes without which no run is begun
ELSEWHERE = ("task.data", "model.path", "model.base")  # where things lie: a checksum in the config says what they are


class Run:
    """One folder of results, open for appending; use it as a context manager.

    ``config`` is a nested dict of plain values. ``part``: the number of the process that writes; 0 is the first, which must
    have opened the folder before the others do and which alone gathers and finishes. Raises OSError when the folder cannot
    be written or another run is writing it, and ValueError when it holds a run with another configuration or a line that
    is not a line; all say what to do.
    """

    def __init__(self, folder: str | Path, config: dict, part: int = 0):
        self.folder, self.config = Path(folder), {"format": FORMAT, **config}
        check_writable(self.folder)
        files = [self.folder / "predictions.jsonl", *self._parts()]
        if any(file.exists() and file.stat().st_size for file in files):
            self._agree()
        file = self.folder / f"predictions.{part}.jsonl" if part else files[0]
        self._file = open(file, "ab", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise OSError(
                errno.EAGAIN, f"another run is writing to {self.folder}; wait for it or give another folder"
            ) from None
        try:
            self.lines = read_predictions(file, cut=True)
            held = [read_predictions(other) for other in files if other.exists() and other != file]
        except ValueError:
            self._file.close()
            raise
        self.done = {line["key"] for line in chain(self.lines, *held)}
        self._size = self._file.seek(0, os.SEEK_END)
        if not self.done and not part:
            _replace(self.folder / "config.yaml", yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))
            write_json(self.folder / "environment.json", environment())

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _agree(self) -> None:
        """Refuse to mix answers of two configurations."""
        file = self.folder / "config.yaml"
        if not file.is_file():
            raise ValueError(f"{self.folder} holds answers but no config.yaml; give another --results")
        held, asked = _flat(yaml.safe_load(file.read_text(encoding="utf-8"))), _flat(self.config)
        other = [
            f"{name} is {held.get(name)!r} there and {asked.get(name)!r} now"
            for name in dict.fromkeys([*held, *asked])
            if name not in ELSEWHERE and held.get(name) != asked.get(name)
        ]
        if other:
            raise ValueError(
                f"{self.folder} holds a run with another configuration: {'; '.join(other)}. "
                "Give another --results, or remove that folder to start anew"
            )

    def append(self, line: Line) -> None:
        """Add one line, whole or not at all. Raises OSError when the disk takes no more."""
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        try:
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.ftruncate(self._file.fileno(), self._size)
            raise OSError(
                error.errno,
                f"{self.folder} takes no more after {len(self.lines)} answers ({error.strerror}); "
                "all of them are kept: make room and give the same command again",
            ) from None
        self._size += len(data)
        self.lines.append(line)
        self.done.add(line["key"])

    def retry_failed(self) -> int:
        """Forget the questions that failed, so that they are asked again; returns how many."""
        everything = self.gather({})
        kept = [line for line in everything if "error" not in line]
        if len(kept) < len(everything):
            self._rewrite(kept)
            (self.folder / "metrics.json").unlink(missing_ok=True)
        return len(everything) - len(kept)

    def gather(self, order: dict[str, int]) -> list[Line]:
        """All lines of all processes in the order of the benchmark (key to place), from now on in one file."""
        parts = self._parts()
        first: dict[str, Line] = {}  # a part that was gathered before a kill is there twice
        for line in chain(self.lines, *map(read_predictions, parts)):
            first.setdefault(line["key"], line)
        ordered = sorted(first.values(), key=lambda line: order.get(line["key"], len(order)))
        if ordered != self.lines:
            self._rewrite(ordered)
        for part in parts:
            part.unlink()
        return ordered

    def _rewrite(self, lines: list[Line]) -> None:
        """Replace all answers at once, and hold the new file as the old one was held."""
        file, old = self.folder / "predictions.jsonl", self._file
        _replace(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        self._file = open(file, "ab", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        old.close()
        self.lines, self.done = list(lines), {line["key"] for line in lines}
        self._size = self._file.seek(0, os.SEEK_END)

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("predictions.*.jsonl"))

    def finish(self, metrics: dict, cost: dict) -> None:
        """Write the two summaries."""
        write_json(self.folder / "cost.json", cost)
        write_json(self.folder / "metrics.json", metrics)


def check_writable(folder: Path) -> None:
    """Make the folder and prove that it takes files. Raises OSError that names it and says what to do."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise OSError(
            error.errno, f"results cannot be written to {folder} ({error.strerror}); give a folder that is writable"
        ) from None
    if free < ROOM:
        raise OSError(
            errno.ENOSPC, f"only {free / 2**20:.0f} MiB are free at {folder}, a run needs {ROOM // 2**20}; make room"
        )


def read_predictions(file: Path, cut: bool = False) -> list[Line]:
    """All whole lines of ``predictions.jsonl``; with ``cut`` the half line of a killed run is removed from the file.

    Raises ValueError naming file and line for one that is not JSON or that repeats a question.
    """
    data = file.read_bytes()
    whole = data.rfind(b"\n") + 1
    if cut and whole < len(data):
        os.truncate(file, whole)
    lines, seen = [], set()
    for number, text in enumerate(data[:whole].splitlines(), start=1):
        try:
            line = json.loads(text)
            key = line["key"]
            if not isinstance(key, str):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(
                f"{file}:{number} is not a line of a run; remove it and give the same command again"
            ) from None
        if key in seen:
            raise ValueError(f"{file}:{number} answers {key} a second time; remove one of the two lines")
        seen.add(key)
        lines.append(line)
    return lines


def summarise_cost(lines: list[Line]) -> dict:
    """Means over the questions that were answered; milliseconds are medians, which one slow moment does not move."""
    answered = [line for line in lines if "error" not in line]
    if not answered:
        return {"questions": 0}
    found = {"questions": len(answered)}
    for name in answered[0]["cost"]:
        found[name] = float(np.mean([line["cost"][name] for line in answered]))
    found["visual_per_layer"] = np.mean([line["kept"] for line in answered], axis=0).tolist()
    found["ms_per_question"] = 1000 * float(np.median([line["seconds"] for line in answered]))
    if all("prefill_seconds" in line for line in answered):
        found["prefill_ms"] = 1000 * float(np.median([line["prefill_seconds"] for line in answered]))
        found["decode_ms"] = 1000 * float(np.median([line["seconds"] - line["prefill_seconds"] for line in answered]))
    found["tower_ms_per_picture"] = 1000 * float(np.median([line["tower_seconds"] for line in answered]))
    return found


def environment() -> dict:
    """What a figure was measured on."""
    versions = {}
    for name in ("llava-condense", "torch", "transformers", "tokenizers", "numpy", "pillow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "versions": versions,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    named = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return named[0].partition(":")[2].strip() if named else platform.processor()


def _commit() -> str | None:
    """The commit of this checkout, marked when files differ from it; None outside a repository."""
    git = shutil.which("git")
    if git is None:
        return None
    here = Path(__file__).parent
    found = subprocess.run(
        [git, "describe", "--always", "--dirty", "--abbrev=40"], cwd=here, capture_output=True, text=True
    )
    return found.stdout.strip() if found.returncode == 0 else None


def write_json(file: Path, content: object) -> None:
    """Write a JSON file so that it is whole or the old one."""
    _replace(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _replace(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def _flat(nested: dict, prefix: str = "") -> dict[str, object]:
    """Nested dicts as one with dotted names."""
    found: dict[str, object] = {}
    for name, value in nested.items():
        found.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return found
