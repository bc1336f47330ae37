"""What a plan saves on this machine: time by part against dense, interleaved, and peak memory.

    python -m llava.eval.bench --random-model layers=12,hidden=1024,text=64 --reduction fastv@2:64 --threads 2
    python -m llava.eval.bench --model-path playground/checkpoints/llava-shapes-v1 --reduction fastv@2:64 --reduction pool:64
    python -m llava.eval.bench --selectors

One pass is tower, prefill and a few decoding steps, each timed on its own. Passes of a plan alternate with dense ones, pair
by pair, so that what else the machine does falls on both; figures are medians with minimum and maximum. Selection, which
is a part of prefill, is timed in passes of its own, since looking at it costs time. Theoretical speed-up is the ratio of
the prefill's FLOPs; realised over theoretical says how much of it arrives. Memory is that of a process of its own on the
CPU, where allocators do not give back, and the allocator's peak on CUDA.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from llava.cli.console import terminal
from llava.cli.flags import add_model_flags, load_from_flags
from llava.constants import SHORT_ANSWER
from llava.files import write_json
from llava.model.language_model.himap_configuration_llama import LlamaConfig
from llava.model.language_model.reducible_llama import ReducibleLlamaForCausalLM
from llava.reduction import Reducer, Stage, check_plan, plan_from, plan_name, reduced
from llava.reduction.cost import decoder_flops, selector_flops
from llava.shapes.world import make_scene, render
from llava.utils import exit_code

from ..ask.subject import LlavaSubject
from ..results.folder import check_writable, environment
from . import selectors
from .memory import peak_of
from .selectors import now

logger = logging.getLogger(__name__)

RANDOM = {
    "layers": 12,
    "hidden": 1024,
    "heads": 0,
    "kv_heads": 0,
    "intermediate": 0,
    "vocab": 32000,
    "text": 64,
    "visual": 576,
}
SYSTEM = 35  # text tokens before the picture, as in LLaVA's prompt
PARTS = ("tower", "prefill", "decode", "end_to_end")


@dataclass
class Workload:
    """A model and one prompt: how to run the tower (None: no tower), how to prefill, what the last prefill computed."""

    model: torch.nn.Module
    encode: Callable[[], object] | None
    prefill: Callable[[object], object]
    flops: Callable[[], float]
    about: dict

    @property
    def device(self) -> torch.device:
        return self.model.device


class Timed(Reducer):
    """A reducer that adds up the seconds of its choices and merges, with the evidence they ask for."""

    def __init__(self, inner: Reducer):
        super().__init__()
        self.inner, self.seconds = inner, 0.0
        for trait in Reducer.__annotations__:
            setattr(self, trait, getattr(inner, trait))

    def select(self, tokens: Tensor, evidence, k: int | None) -> Tensor:
        return self._timed(self.inner.select, tokens, evidence, k)

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence) -> Tensor:
        return self._timed(self.inner.aggregate, tokens, kept, evidence)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return self.inner.flops(rows, tokens, kept, width, text)

    def _timed(self, compute: Callable, tokens: Tensor, *rest) -> Tensor:
        start = now(tokens.device)
        result = compute(tokens, *rest)
        self.seconds += now(tokens.device) - start
        return result


def random_workload(spec: str, device: str, dtype: torch.dtype) -> Workload:
    """A Llama of random weights and a prompt of random embeddings, 576 of them visual: ``layers=12,hidden=1024,text=64``.

    Also ``heads`` (default hidden / 64), ``kv_heads`` (heads), ``intermediate`` (2.6875 hidden), ``vocab`` and ``visual``.
    Raises ValueError for another name or a value that is no whole number.
    """
    sizes = dict(RANDOM)
    for part in filter(None, spec.split(",")):
        name, _, value = part.partition("=")
        if name not in sizes or not value.isdigit():
            raise ValueError(
                f"random_model: cannot read {part!r}; write {','.join(f'{key}=N' for key in sizes)}, any of them"
            )
        sizes[name] = int(value)
    sizes["heads"] = sizes["heads"] or max(1, sizes["hidden"] // 64)
    sizes["kv_heads"] = sizes["kv_heads"] or sizes["heads"]
    sizes["intermediate"] = sizes["intermediate"] or int(2.6875 * sizes["hidden"])
    config = LlamaConfig(
        vocab_size=sizes["vocab"],
        hidden_size=sizes["hidden"],
        intermediate_size=sizes["intermediate"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["kv_heads"],
        max_position_embeddings=max(4096, sizes["text"] + sizes["visual"] + 256),
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = ReducibleLlamaForCausalLM(config).to(dtype).eval()
        length = sizes["text"] + sizes["visual"]
        embeds = torch.randn(1, length, sizes["hidden"], dtype=dtype)
        visual = torch.zeros(1, length, dtype=torch.long)
    before = min(SYSTEM, sizes["text"])
    visual[:, before : before + sizes["visual"]] = 1

    def flops() -> float:
        rows = model.model.last_rows_per_layer[:, 0].tolist()
        return decoder_flops(config, rows) + selector_flops(model.model.last_trace, [0], sizes["hidden"])

    return Workload(
        model=model,
        encode=None,
        prefill=lambda _: model(inputs_embeds=embeds, visual=visual, use_cache=True, logits_to_keep=1),
        flops=flops,
        about={"model": "random", **sizes},
    )


def llava_workload(arguments: argparse.Namespace) -> Workload:
    """A LLaVA checkpoint asked a question about a drawn picture."""
    tokenizer, model, image_processor, _ = load_from_flags(arguments)
    subject = LlavaSubject(tokenizer, model, image_processor, arguments.conv_mode or "vicuna_v1")
    image = render(make_scene(3, 1))
    text = f"What color is the star?\n{SHORT_ANSWER}"
    ids = torch.tensor([subject.prompt_ids(text, has_picture=True)], device=model.device)

    def prefill(picture):
        seen = {"raw_vision_features": [picture.features], "image_sizes": [picture.size]}
        return model(ids, **seen, use_cache=True, logits_to_keep=1)

    def flops() -> float:
        (cost,) = model.last_cost()
        return cost.total_flops - cost.tower_flops

    return Workload(
        model=model,
        encode=lambda plan: subject.encode([image], plan)[0],
        prefill=prefill,
        flops=flops,
        about={"model": str(arguments.model_path), "text": ids.shape[1] - 1},
    )


@torch.inference_mode()
def one_pass(work: Workload, plan: list[Stage], steps: int) -> dict[str, float]:
    """Seconds of tower, prefill, ``steps`` decoding steps (together) and all of it."""
    with reduced(work.model, plan):
        start = now(work.device)
        features = work.encode(plan) if work.encode else None
        seen = now(work.device)
        out = work.prefill(features)
        token = out.logits[:, -1:].argmax(-1)
        filled = now(work.device)
        for _ in range(steps):
            out = work.model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        end = now(work.device)
    return {
        "tower": seen - start if work.encode else 0.0,
        "prefill": filled - seen,
        "decode": end - filled,
        "end_to_end": end - start,
    }


def compare(work: Workload, plan: list[Stage], pairs: int, steps: int, console: Console | None = None) -> dict:
    """Time a plan against dense in ``pairs`` alternating pairs, after one pair that is not counted.

    Returns ``dense_ms`` and ``plan_ms`` by part as {median, min, max} (decode per token), ``speedup`` likewise from the
    pairs' ratios, ``selection_ms``, FLOPs of both prefills, ``theoretical`` and ``realised_over_theoretical`` of prefill.
    """
    dense: list[dict] = []
    plans: list[dict] = []
    flops = {}
    for number in _bar(range(pairs + 1), plan_name(plan), console):
        # First one, then the other: what warms up or throttles favours neither.
        order = (([], dense), (plan, plans)) if number % 2 else ((plan, plans), ([], dense))
        for stages, into in order:
            into.append(one_pass(work, stages, steps))
            flops[bool(stages)] = work.flops()
    dense, plans = dense[1:], plans[1:]
    theoretical = flops[False] / flops[bool(plan)]
    scale = {part: 1000 / steps if part == "decode" and steps else 1000 for part in PARTS}
    speedup = {part: _spread([a[part] / b[part] for a, b in zip(dense, plans)]) for part in PARTS if dense[0][part] > 0}
    return {
        "plan": plan_name(plan),
        "stages": [str(stage) for stage in plan],
        "dense_ms": {part: _spread([scale[part] * one[part] for one in dense]) for part in PARTS},
        "plan_ms": {part: _spread([scale[part] * one[part] for one in plans]) for part in PARTS},
        "selection_ms": _selection(work, plan, pairs),
        "speedup": speedup,
        "dense_flops": flops[False],
        "plan_flops": flops[bool(plan)],
        "theoretical": theoretical,
        "realised_over_theoretical": speedup["prefill"]["median"] / theoretical,
    }


def _selection(work: Workload, plan: list[Stage], times: int) -> dict[str, float]:
    """Milliseconds a pass spends choosing and merging."""
    found = []
    for _ in range(times):
        timed = [dataclasses.replace(stage, reducer=Timed(stage.reducer)) for stage in plan]
        one_pass(work, timed, steps=0)
        found.append(1000 * sum(stage.reducer.seconds for stage in timed))
    return _spread(found)


def _bar(steps: Collection, name: str, console: Console | None) -> Iterable:
    """The steps, with a bar and the time left where someone is watching."""
    watched = console is not None and console.is_terminal
    return track(steps, name, console=console, disable=not watched, transient=True)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def keep_all(plan: list[Stage]) -> list[Stage]:
    """The same stages throwing nothing away: what the machinery costs."""
    return [dataclasses.replace(stage, keep=1.0) for stage in plan]


def peak_memory(work: Workload, plan: list[Stage], steps: int) -> dict[str, float]:
    """MB of one pass: ``peak`` in all, ``before`` it. On the CPU that of this process, which should do nothing else."""
    return peak_of(lambda: one_pass(work, plan, steps), work.device)


def _memory_apart(arguments: Sequence[str], plan: str) -> dict[str, float]:
    """``peak_memory`` in a process of its own. Raises RuntimeError with the end of its errors if it fails."""
    command = [sys.executable, "-m", "llava.eval.bench", *arguments, "--memory-of", plan]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the process that measures memory of {plan!r} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def show(result: dict, console: Console) -> None:
    """Print the table."""
    table = Table(title=f"{result['about']['model']} on {result['device']}", title_style="bold", box=box.SIMPLE_HEAD)
    heads = (
        "plan",
        "choice\nms",
        "prefill\nms",
        "decode\nms",
        "in all\nms",
        "prefill faster\n[min-max]",
        "fewer\nFLOPs",
        "real-\nised",
        "peak\nMB",
    )
    for head in heads:
        table.add_column(
            head,
            justify="left" if head == "plan" else "right",
            no_wrap="[" not in head,
            min_width=11 if "[" in head else 4,
        )
    memory = result.get("dense_memory", {}).get("peak")
    first = result["plans"][0]["dense_ms"]
    parts = ("prefill", "decode", "end_to_end")
    table.add_row("dense", "-", *(f"{first[part]['median']:.1f}" for part in parts), "", "", "", _megabytes(memory))
    for found in result["plans"]:
        faster = found["speedup"]["prefill"]
        table.add_row(
            found["plan"],
            f"{found['selection_ms']['median']:.2f}",
            *(f"{found['plan_ms'][part]['median']:.1f}" for part in parts),
            f"{faster['median']:.2f} [{faster['min']:.2f}-{faster['max']:.2f}]",
            f"{found['theoretical']:.2f}",
            f"{found['realised_over_theoretical']:.2f}",
            _megabytes(found.get("memory", {}).get("peak")),
        )
    console.print(table)
    tower = first["tower"]["median"]
    said = f"tower {tower:.1f} ms, the same for all; " if tower > 0.01 else ""
    console.print(
        f"{said}medians of {result['pairs']} alternating pairs, dense of the first plan's; decode is a token's; realised is "
        "the time's ratio over that of the FLOPs",
        style="dim",
        highlight=False,
    )


def _megabytes(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def parser() -> argparse.ArgumentParser:
    """A model, plans, and how often."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.eval.bench", description="Time plans against dense, pair by pair."
    )
    add_model_flags(flags, model_path="")
    flags.add_argument("--random-model", metavar="SIZES", help="no checkpoint: layers=12,hidden=1024,text=64")
    flags.add_argument("--reduction", action="append", default=[], metavar="PLAN", help="a plan; repeatable")
    flags.add_argument("--overhead", action="store_true", help="also every plan with nothing thrown away")
    flags.add_argument("--pairs", type=int, default=7)
    flags.add_argument("--decode-tokens", type=int, default=8, help="decoding steps a pass (default: 8)")
    flags.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    flags.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    flags.add_argument("--output", type=Path, help="default: playground/results/bench.json, or selectors.json")
    flags.add_argument("--memory-of", metavar="PLAN", help=argparse.SUPPRESS)
    apart = flags.add_argument_group("selectors", "choosing and merging by themselves, on random tokens")
    apart.add_argument("--selectors", action="store_true", help="strategies x tokens x keep x heads, and no model")
    apart.add_argument("--tokens", type=_numbers, default=[576, 2880], help="default: 576,2880")
    apart.add_argument("--keep", type=_numbers, default=[64], help="default: 64")
    apart.add_argument("--heads", type=_numbers, default=[8, 32], help="default: 8,32")
    apart.add_argument("--width", type=int, default=4096)
    return flags


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def workload(arguments: argparse.Namespace) -> Workload:
    """The model that a command line names."""
    if bool(arguments.model_path) == (arguments.random_model is not None):
        raise ValueError("give either --model-path or --random-model")
    if arguments.model_path:
        return llava_workload(arguments)
    return random_workload(arguments.random_model, *_device(arguments))


def _device(arguments: argparse.Namespace) -> tuple[str, torch.dtype]:
    """Where to compute and in which type: as asked for, else CUDA in half precision, else the CPU in float32."""
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = arguments.dtype or ("float16" if device.startswith("cuda") else "float32")
    if not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"dtype={dtype!r} is no type of torch; give float32, bfloat16 or float16")
    return device, getattr(torch, dtype)


def run_selectors(arguments: argparse.Namespace, console: Console) -> dict:
    """Measure choosing and merging by themselves, print the table and write the JSON; returns what was written."""
    output = arguments.output or Path("playground/results/selectors.json")
    check_writable(output.parent)
    device, dtype = _device(arguments)
    found = selectors.measure(
        arguments.tokens, arguments.keep, arguments.heads, arguments.width, arguments.pairs, torch.device(device), dtype,
        console,
    )  # fmt: skip
    machine = environment()
    result = {
        "device": _device_name(torch.device(device), machine),
        "dtype": str(dtype).removeprefix("torch."),
        "repeats": arguments.pairs,
        "environment": machine,
        **found,
    }
    selectors.show(result, console)
    write_json(output, result)
    logger.info("wrote %s", output)
    return result


def _device_name(device: torch.device, machine: dict) -> str:
    return machine["gpu"] if device.type == "cuda" else f"{machine['processor']}, {torch.get_num_threads()} threads"


def run(arguments: argparse.Namespace, given: Sequence[str], console: Console) -> dict:
    """Measure what a command line asks for, print the table and write the JSON; returns what was written."""
    plans = [plan_from(spec) for spec in arguments.reduction]
    if not plans or not all(plans):
        raise ValueError("give at least one --reduction, for example fastv@2:64; dense is always measured with it")
    if arguments.pairs < 1 or arguments.decode_tokens < 0:
        raise ValueError(
            f"pairs={arguments.pairs} must be at least 1 and decode_tokens={arguments.decode_tokens} at least 0"
        )
    if arguments.overhead:
        plans += [keep_all(plan) for plan in plans]
    output = arguments.output or Path("playground/results/bench.json")
    check_writable(output.parent)
    specs = {plan_name(plan): "+".join(map(str, plan)) for plan in plans}
    apart: dict[str, dict] = {}
    on_cuda = torch.cuda.is_available() and not str(arguments.device).startswith("cpu")
    if not arguments.no_memory and not on_cuda:
        for name, spec in _bar({"dense": "", **specs}.items(), "peak memory", console):
            apart[name] = _memory_apart(given, spec)
    work = workload(arguments)
    for plan in plans:
        check_plan(plan, work.model.config.num_hidden_layers)
    found = [compare(work, plan, arguments.pairs, arguments.decode_tokens, console) for plan in plans]
    if not arguments.no_memory and on_cuda:
        apart = {
            name: peak_memory(work, plan_from(spec), arguments.decode_tokens)
            for name, spec in {"dense": "", **specs}.items()
        }
    machine = environment()
    result = {
        "about": work.about,
        "device": _device_name(work.device, machine),
        "dtype": str(work.model.dtype).removeprefix("torch."),
        "attention": work.model.config._attn_implementation,
        "pairs": arguments.pairs,
        "decode_tokens": arguments.decode_tokens,
        "environment": machine,
        "plans": [{**one, **({"memory": apart[one["plan"]]} if apart else {})} for one in found],
    }
    if apart:
        result["dense_memory"] = apart["dense"]
    show(result, console)
    write_json(output, result)
    logger.info("wrote %s", output)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = parser().parse_args(words)

    def work() -> None:
        if given.threads is not None:
            torch.set_num_threads(given.threads)
        if given.selectors:
            run_selectors(given, terminal())
        elif given.memory_of is not None:
            found = peak_memory(workload(given), plan_from(given.memory_of), given.decode_tokens)
            sys.stdout.write(json.dumps(found) + "\n")
        else:
            run(given, words, terminal())

    return exit_code(work, bad=(ValueError, OSError, RuntimeError))


if __name__ == "__main__":
    sys.exit(main())
