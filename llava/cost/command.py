"""What a plan would cost any host, before running it: ``python -m llava.cost``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from llava.cli.console import launch, terminal
from llava.cli.flags import LoadPlugin
from llava.eval.bench.plans import device_name
from llava.eval.bench.workload import torch_dtype
from llava.eval.results.folder import environment
from llava.reduction import plan_from

from .estimate import Estimate, Prompt, estimates, parse_size, runs
from .host import Host, from_config, preset, presets
from .measure import Timing, check_measurable, timings
from .printing import print_costs, print_machine, print_presets


def parser() -> argparse.ArgumentParser:
    """A host, pictures, and plans."""
    flags = argparse.ArgumentParser(
        prog="llava cost", description="Count what plans cost a model, from its config alone."
    )
    flags.add_argument("--host", metavar="NAME", help="a common checkpoint, for example qwen2.5-vl-7b; see --list")
    flags.add_argument("--config", type=Path, metavar="PATH", help="any config.json of a known family, or its folder")
    flags.add_argument("--list", action="store_true", help="list the hosts that have a name")
    flags.add_argument("--image", action="append", default=[], metavar="WxH", help="a picture in pixels; repeatable")
    flags.add_argument("--text", type=int, default=60, help="text tokens of a prompt (default: 60)")
    flags.add_argument("--batch", type=int, default=1, help="identical prompts in a batch (default: 1)")
    flags.add_argument(
        "--plugin", action=LoadPlugin, metavar="MODULE", help="a module or a .py file that registers methods"
    )
    flags.add_argument("--reduction", action="append", default=[], metavar="PLAN", help="a plan; repeatable")
    flags.add_argument(
        "--processor",
        action="append",
        default=[],
        metavar="NAME=N",
        help="a setting of the image processor: max_pixels=1003520",
    )
    flags.add_argument("--json", action="store_true", help="print JSON instead of a table")
    flags.add_argument(
        "--dtype", help="number format of the cache and of --measure (default: bfloat16; measured on a CPU: float32)"
    )
    measure = flags.add_argument_group("measuring", "with random weights of the true shapes, a layer at a time")
    measure.add_argument("--measure", action="store_true", help="also measure milliseconds on this machine")
    measure.add_argument("--device", help="default: CUDA where there is one")
    measure.add_argument("--repeats", type=int, default=5, help="rounds that are counted (default: 5)")
    measure.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), _run, arguments, bad=(ValueError, OSError, RuntimeError), stopped=None)


def _run(flags: argparse.Namespace) -> None:
    console = terminal()
    if flags.list:
        print_presets(presets(), console)
        return
    host, prompt = _host(flags), Prompt(tuple(map(parse_size, flags.image)), flags.text, flags.batch)
    device = torch.device(flags.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = flags.dtype or ("float32" if flags.measure and device.type == "cpu" else "bfloat16")
    rows = estimates(host, prompt, flags.reduction, torch_dtype(dtype).itemsize)
    measured = _measure(flags, host, prompt, rows, device, dtype, console) if flags.measure else []
    machine = device_name(device, environment()) if flags.measure else None
    if flags.json:
        sys.stdout.write(json.dumps(_json(host, prompt, rows, dtype, measured, machine), indent=1) + "\n")
        return
    print_costs(host, prompt, rows, dtype, console, measured)
    if machine is not None:
        print_machine(machine, dtype, flags.repeats, console)


def _measure(
    flags: argparse.Namespace,
    host: Host,
    prompt: Prompt,
    rows: Sequence[Estimate],
    device: torch.device,
    dtype: str,
    console: Console,
) -> list[Timing]:
    if flags.threads is not None:
        if flags.threads < 1:
            raise ValueError(f"threads={flags.threads} must be at least 1")
        torch.set_num_threads(flags.threads)
    check_measurable(host, [plan_from(plan) for plan in flags.reduction])
    bar = None if flags.json else console
    return timings(host, prompt, rows, device, torch_dtype(dtype), flags.repeats, bar)


def _host(flags: argparse.Namespace) -> Host:
    """The model that a command line names."""
    if (flags.host is None) == (flags.config is None):
        raise ValueError("give either --host or --config; --list prints the hosts that have a name")
    processor = dict(map(_setting, flags.processor))
    return preset(flags.host, processor) if flags.host is not None else from_config(flags.config, processor)


def _setting(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if not name or not (value.isascii() and value.isdigit()):
        raise ValueError(f"--processor {text!r} is not understood; write a name and a number, like max_pixels=1003520")
    return name, int(value)


def _json(
    host: Host,
    prompt: Prompt,
    rows: Sequence[Estimate],
    dtype: str,
    measured: Sequence[Timing],
    machine: str | None,
) -> dict[str, Any]:
    """Everything that is known, as plain values."""
    plans = []
    for number, row in enumerate(rows):
        cost = row.cost
        plans.append(
            {
                **asdict(row),
                "cost": {**asdict(cost), "visual_tokens": cost.visual_tokens, "total_flops": cost.total_flops},
                "stretches": runs(cost.visual_per_layer),
                **({"measured": asdict(measured[number])} if measured else {}),
            }
        )
    about = {"host": host.name, "checkpoint": host.checkpoint, "dtype": dtype, **asdict(prompt)}
    return {**about, **({"device": machine} if machine is not None else {}), "plans": plans}


if __name__ == "__main__":
    sys.exit(main())
