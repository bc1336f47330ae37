"""One plan against the full model and the controls: what the documents' inference scripts do."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from llava.model.language_model.himap_configuration_llama import REDUCTION_KNOBS, LlamaConfig
from llava.reduction import Stage, plan_name

from .command import add_plan_flags, one_plan, parser, save
from .sweep import Experiment, Outcome

FILE = "{benchmark}_results_{method}.json"


def inference_parser(description: str, benchmark: str) -> argparse.ArgumentParser:
    """The flags of ``eval_scivqa`` and ``eval_mme``: the common ones, --sys-length, --img-length, and every reduction flag."""
    flags = parser(description, FILE.format(benchmark=benchmark, method="METHOD"), lengths=("sys_length", "img_length"))
    add_plan_flags(flags)
    flags.set_defaults(output_file=None)
    greedy = "documented; answers are greedy, so that only 0 is taken"
    flags.add_argument("--temperature", type=float, default=0.0, help=greedy)
    return flags


def infer(given: argparse.Namespace, task: str, benchmark: str, table: Callable[[Outcome], dict]) -> None:
    """Evaluate the plan that the flags spell, and write its ``table`` with flops_info, model_config and the controls'.

    Unless it is named, the file is ``{benchmark}_results_METHOD.json``, METHOD being himap, fastv_{selection}[_alpha{a}],
    baseline, or the plan itself.
    """
    if given.temperature:
        raise ValueError(
            f"--temperature {given.temperature:g} is not taken: what is compared is answered greedily, at 0"
        )
    experiment = Experiment(f"{benchmark}_inference", task, given)
    plan = one_plan(given, experiment.config)
    method = method_name(plan, experiment.config)
    given.output_file = given.output_file or Path(FILE.format(benchmark=benchmark, method=method))
    outcome, others = compare(experiment, plan)
    content = {
        **table(outcome),
        "flops_info": flops_info(outcome, others["full"]),
        "model_config": model_config(experiment),
        "controls": {name: table(other) for name, other in others.items()},
    }
    save(given, content)


def compare(experiment: Experiment, plan: list[Stage]) -> tuple[Outcome, dict[str, Outcome]]:
    """What a plan came to, and by name what it is held against: full, and unless switched off blind and random."""
    found = experiment.sweep({"plan": {0: plan}})
    outcomes = {name: curve[0] for name, curve in found.curves.items()}
    return outcomes.pop("plan"), {**found.references, **outcomes}


def method_name(plan: list[Stage], config: LlamaConfig) -> str:
    """What the documents' files call a run; what they do not know goes by its plan."""
    if not plan:
        return "baseline"
    if config.use_fast_v:
        method = config.fast_v_token_selection_method
        return f"fastv_{method}" + (f"_alpha{config.fast_v_weighted_alpha}" if method == "weighted_combination" else "")
    return "himap" if config.use_hmap_v and not config.use_token_condensation else plan_name(plan)


def flops_info(outcome: Outcome, full: Outcome) -> dict:
    """A question's GFLOPs with tower and selection, those of the full model, their ratio, and the visual tokens."""
    spent, dense = (one.cost["total_flops"] / 1e9 for one in (outcome, full))
    tokens = outcome.cost["visual_tokens"]
    return {"gflops": spent, "full_gflops": dense, "ratio": spent / dense, "visual_tokens": tokens}


def model_config(experiment: Experiment) -> dict:
    """The documents' account of a run; the lengths are the prompt's own."""
    config, (start, tokens) = experiment.config, experiment.span()
    return {
        "use_himap": config.use_hmap_v,
        "use_fastv": config.use_fast_v,
        "sys_length": start,
        "img_length": tokens,
        "txt_layer": config.hmap_v_attn_txt_layer,
        "img_layer": config.hmap_v_attn_img_layer,
        "txt_rank": config.hmap_v_attn_txt_rank,
        "img_rank": config.hmap_v_attn_img_rank,
        **{name: getattr(config, name) for name in REDUCTION_KNOBS if name.startswith("fast_v_")},
    }
