"""Time and memory of plans against dense, or of selectors alone.

python -m llava.eval.bench --random-model layers=12,hidden=1024,text=64 --reduction fastv@2:64 --threads 2
python -m llava.eval.bench --model-path playground/checkpoints/llava-shapes-v1 --reduction fastv@2:64 --reduction pool:64
python -m llava.eval.bench --selectors
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from llava.cli.console import launch, terminal
from llava.cli.flags import add_model_flags, model_spec
from llava.cli.settings import ModelSpec
from llava.files import write_json

from ..results.folder import check_writable, environment
from .plans import BenchSettings, device_name, time_plans
from .printing import print_selectors, print_timings
from .selectors import SelectorSettings, time_selectors
from .workload import RandomModel, torch_dtype

logger = logging.getLogger(__name__)

RESULTS = Path("playground/results")


def parser() -> argparse.ArgumentParser:
    """A model, plans, and how often."""
    flags = argparse.ArgumentParser(prog="llava bench", description="Time plans against dense, pair by pair.")
    add_model_flags(flags, model_path="")
    flags.add_argument(
        "--random-model", metavar="SIZES", help="random weights in place of a checkpoint: layers=12,hidden=1024,text=64"
    )
    flags.add_argument("--reduction", action="append", default=[], metavar="PLAN", help="a plan; repeatable")
    flags.add_argument("--overhead", action="store_true", help="also time every plan with nothing thrown away")
    flags.add_argument("--pairs", type=int, default=7)
    flags.add_argument("--decode-tokens", type=int, default=8, help="decoding steps in a pass (default: 8)")
    flags.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    flags.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    flags.add_argument("--output", type=Path, help="default: playground/results/bench.json, or selectors.json")
    selectors = flags.add_argument_group("selectors", "choosing and merging alone, on random tokens")
    selectors.add_argument(
        "--selectors", action="store_true", help="time strategies x tokens x keep x heads, without a model"
    )
    selectors.add_argument("--tokens", type=_numbers, default=(576, 2880), help="default: 576,2880")
    selectors.add_argument("--keep", type=_numbers, default=(64,), help="default: 64")
    selectors.add_argument("--heads", type=_numbers, default=(8, 32), help="default: 8,32")
    selectors.add_argument("--width", type=int, default=4096)
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), _run, arguments, bad=(ValueError, OSError, RuntimeError), stopped=None)


def _run(flags: argparse.Namespace) -> None:
    if flags.threads is not None:
        if flags.threads < 1:
            raise ValueError(f"threads={flags.threads} must be at least 1")
        torch.set_num_threads(flags.threads)
    output = flags.output or RESULTS / ("selectors.json" if flags.selectors else "bench.json")
    check_writable(output.parent)
    console = terminal()
    if flags.selectors:
        settings = _selector_settings(flags)
        machine = environment()
        result = {
            "device": device_name(torch.device(settings.device), machine),
            "dtype": str(settings.dtype).removeprefix("torch."),
            "environment": machine,
            **time_selectors(settings, console),
        }
        print_selectors(result, console)
    else:
        result = time_plans(_bench_settings(flags), console)
        print_timings(result, console)
    write_json(output, result)
    logger.info("wrote %s", output)


def _bench_settings(flags: argparse.Namespace) -> BenchSettings:
    return BenchSettings(
        source=_source(flags),
        reductions=tuple(flags.reduction),
        overhead=flags.overhead,
        pairs=flags.pairs,
        decode_tokens=flags.decode_tokens,
        memory=not flags.no_memory,
    )


def _selector_settings(flags: argparse.Namespace) -> SelectorSettings:
    device, dtype = _device(flags)
    return SelectorSettings(flags.tokens, flags.keep, flags.heads, flags.width, flags.pairs, device, torch_dtype(dtype))


def _source(flags: argparse.Namespace) -> ModelSpec | RandomModel:
    """The model that a command line names."""
    if bool(flags.model_path) == (flags.random_model is not None):
        raise ValueError("give either --model-path or --random-model")
    return model_spec(flags) if flags.model_path else RandomModel.from_text(flags.random_model, *_device(flags))


def _device(flags: argparse.Namespace) -> tuple[str, str]:
    """Where to compute and in which format: as the flags say, else CUDA in half precision, else the CPU in float32."""
    device = flags.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return device, flags.dtype or ("float16" if device.startswith("cuda") else "float32")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
