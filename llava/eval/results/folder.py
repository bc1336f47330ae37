"""A run's folder: what was asked, what was answered, what it cost; resumable, and enough for a report without a model.

=======================  ==========================================================================================
``config.yaml``          everything that decides the answers, resolved; a rerun must agree with it
``environment.json``     versions, machine, threads, commit
``predictions.jsonl``    one line per question, appended as it is answered; in the benchmark's order when all are there
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
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from llava.files import excerpt, parse_json, read_text, require_fields, write_json, write_text
from llava.folders import differences
from llava.shipped import INSTALLED

from ..tasks.base import Line

__all__ = ["Run", "check_writable", "environment", "read_config", "read_predictions", "summarise_cost", "write_json"]

FORMAT = 1  # of the folder; increased when older folders can no longer be read
ROOM = 32 * 2**20  # bytes that must be free for a run to begin
DEEPEST = 50  # deepest nesting of mappings and lists in a configuration
# What a resumed run may change: where things lie (checksums say what they are), and what decides no answer.
FREE = ("task.data", "model.path", "model.base", "model.device", "batch_size")


class Run:
    """One folder of results, open for appending; use it as a context manager.

    ``config`` is a nested dict of plain values. ``part``: the number of the process that writes; 0 is the first, which must
    have opened the folder before the others do and which alone gathers and finishes. Raises OSError when the folder cannot
    be written or another run is writing it, and ValueError when it holds a run with another configuration or a
    malformed line; all say what to do.
    """

    def __init__(self, folder: str | Path, config: dict, part: int = 0):
        self.folder, self.config = Path(folder), {"format": FORMAT, **config}
        check_writable(self.folder)
        files = [self.folder / "predictions.jsonl", *self._parts()]
        if any(file.exists() and file.stat().st_size for file in files):
            require_same(self.folder, self.config)
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
            write_text(self.folder / "config.yaml", yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))
            write_json(self.folder / "environment.json", environment())

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

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
        """Replace all answers at once, and lock the new file as the old one was locked."""
        file, old = self.folder / "predictions.jsonl", self._file
        write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
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
    """Make the folder and check that files can be written there. Raises OSError that names it and says what to do."""
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


def require_same(folder: Path, config: dict) -> None:
    """Refuse to mix answers of two configurations. Raises ValueError naming in what the run in ``folder`` differs from ``config``."""
    file = folder / "config.yaml"
    if not file.is_file():
        raise ValueError(f"{folder} holds answers but no config.yaml; give another --results")
    if changes := differences(read_config(file), {"format": FORMAT, **config}, FREE):
        raise ValueError(
            f"{folder} holds a run with another configuration: {changes}. "
            "Give another --results, or remove that folder to start again"
        )


def read_config(file: Path) -> dict[str, Any]:
    """The configuration of a run, without aliases, which would let a small file stand for an endless one.

    Raises ValueError naming the file, and the line if it can, and FileNotFoundError.
    """
    advice = "remove the folder and run it again, or give another --results"
    text = read_text(file)
    try:
        depth = 0
        for event in yaml.parse(text):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"{file}:{event.start_mark.line + 1} holds an alias; {advice}")
            if depth > DEEPEST:
                raise ValueError(f"{file}:{event.start_mark.line + 1} is nested too deeply; {advice}")
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise ValueError(f"{file}:{line} is not plain YAML; {advice}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} holds {excerpt(config)} where a mapping belongs; {advice}")
    return config


def read_predictions(file: Path, cut: bool = False) -> list[Line]:
    """All whole lines of ``predictions.jsonl``; with ``cut`` the half line of a killed run is removed from the file.

    Raises ValueError naming file and line for one that is no object with a key, or that repeats a question.
    """
    data = file.read_bytes()
    whole = data.rfind(b"\n") + 1
    if cut and whole < len(data):
        os.truncate(file, whole)
    lines: dict[str, Line] = {}
    for number, text in enumerate(data[:whole].split(b"\n")[:-1], start=1):
        try:
            line = parse_json(text.decode("utf-8"), file, number, surrogates=True)
            require_fields(f"{file}:{number}", line, {"key": str})
        except ValueError as error:
            reason = f": {error}" if str(error).startswith(f"{file}:{number}") else ""
            raise ValueError(
                f"{file}:{number} is not a line of a run{reason}; remove it and give the same command again"
            ) from None
        if line["key"] in lines:
            raise ValueError(f"{file}:{number} answers {line['key']} a second time; remove one of the two lines")
        lines[line["key"]] = line
    return list(lines.values())


def summarise_cost(lines: list[Line]) -> dict[str, Any]:
    """Means over the questions that were answered; milliseconds are medians, which one slow moment does not move."""
    answered = [line for line in lines if "error" not in line]
    summary: dict[str, Any] = {"questions": len(answered)}
    if not answered:
        return summary
    for name in answered[0]["cost"]:
        summary[name] = float(np.mean([line["cost"][name] for line in answered]))
    summary["visual_per_layer"] = np.mean([line["kept"] for line in answered], axis=0).tolist()
    summary["ms_per_question"] = _median_ms(line["seconds"] for line in answered)
    if all("prefill_seconds" in line for line in answered):
        summary["prefill_ms"] = _median_ms(line["prefill_seconds"] for line in answered)
        summary["decode_ms"] = _median_ms(line["seconds"] - line["prefill_seconds"] for line in answered)
    summary["tower_ms_per_picture"] = _median_ms(line["tower_seconds"] for line in answered)
    return summary


def _median_ms(seconds: Iterable[float]) -> float:
    return 1000 * float(np.median(list(seconds)))


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
    """The commit of this checkout, marked when files differ from it; None where the package is installed, or without git."""
    git = shutil.which("git")
    if git is None or INSTALLED:
        return None
    describe = [git, "describe", "--always", "--dirty", "--abbrev=40"]
    done = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None
