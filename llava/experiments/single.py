"""One plan against the full model and the controls: the documents' inference scripts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from llava.cli.console import launch
from llava.cli.flags import plan_spec
from llava.cli.settings import PlanSpec
from llava.eval.ask.plans import with_knobs
from llava.model.language_model.knobs import SPANS
from llava.model.language_model.reduction_knobs import REDUCTION_KNOBS, ReductionKnobs
from llava.reduction import Stage, plan_name

from .command import add_plan_flags, experiment_settings, one_plan, save
from .command import parser as common
from .layers import Command
from .settings import ExperimentSettings
from .sweep import Experiment, Outcome
from .tables import answer_table

Table = Callable[[Outcome], dict]

UNNAMED = Path()  # the file is named by what is run
CUSTOM_KNOBS = {
    "kept_tokens": "custom_kept_tokens",
    "agg_layer": "custom_agg_layer",
    "selection_method": "custom_selection_method",
    "temperature": "custom_temperature",
    "placement": "custom_placement",
}


def compare(experiment: Experiment, plan: list[Stage]) -> tuple[Outcome, dict[str, Outcome]]:
    """A plan's outcome, and by name those it is compared with: full, and unless switched off blind and random."""
    sweep = experiment.sweep({"plan": {0: plan}})
    outcomes = {name: curve[0] for name, curve in sweep.curves.items()}
    return outcomes.pop("plan"), {**sweep.references, **outcomes}


# -------------------------------------------------------------------------------------------------- eval_mme, eval_scivqa


def inference_parser(description: str, task: str) -> argparse.ArgumentParser:
    """The common flags, --sys-length, --img-length, and every reduction flag."""
    flags = common(description, f"{task}_results_METHOD.json", lengths=("sys_length", "img_length"))
    add_plan_flags(flags)
    flags.set_defaults(output_file=None)
    greedy = "documented; answers are greedy, so that only 0 is taken"
    flags.add_argument("--temperature", type=float, default=0.0, help=greedy)
    return flags


def infer(settings: ExperimentSettings, spec: PlanSpec, table: Table) -> None:
    """Evaluate a plan, and write its ``table`` with flops_info, model_config and the controls'.

    Unless it is named, the file is ``{task}_results_METHOD.json``, METHOD being himap, fastv_{selection}[_alpha{a}],
    baseline, or the plan itself.
    """
    task = settings.evaluation.task
    experiment = Experiment(f"{task}_inference", settings)
    plan, config = one_plan(spec, experiment.config), with_knobs(experiment.config, spec.knobs)
    outcome, others = compare(experiment, plan)
    content = {
        **table(outcome),
        "flops_info": flops_info(outcome, others["full"]),
        "model_config": model_config(config, experiment.span()),
        "controls": {name: table(other) for name, other in others.items()},
    }
    save(named(settings, f"{task}_results_{method_name(plan, config)}.json"), content)


def named(settings: ExperimentSettings, name: str) -> ExperimentSettings:
    """The settings with this file where none was named."""
    return replace(settings, output_file=Path(name)) if settings.output_file == UNNAMED else settings


def method_name(plan: list[Stage], config: ReductionKnobs) -> str:
    """What the documents' files call a run; what they do not know is named by its plan."""
    if not plan:
        return "baseline"
    if config.use_fast_v:
        method = config.fast_v_token_selection_method
        return f"fastv_{method}" + (f"_alpha{config.fast_v_weighted_alpha}" if method == "weighted_combination" else "")
    return "himap" if config.use_hmap_v and not config.use_token_condensation else plan_name(plan)


def flops_info(outcome: Outcome, full: Outcome) -> dict:
    """A question's GFLOPs with tower and selection, those of the full model, their ratio, and the visual tokens."""
    spent, dense = (run.cost["total_flops"] / 1e9 for run in (outcome, full))
    tokens = outcome.cost["visual_tokens"]
    return {"gflops": spent, "full_gflops": dense, "ratio": spent / dense, "visual_tokens": tokens}


def model_config(config: ReductionKnobs, span: tuple[int, int | None]) -> dict:
    """The documents' account of a run; the lengths are the prompt's own."""
    start, tokens = span
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


def inference_command(
    description: str | None, task: str, table: Table
) -> tuple[Callable[[], argparse.ArgumentParser], Command]:
    """The parser and the main function of a script that evaluates one plan on ``task``."""

    def script_parser() -> argparse.ArgumentParser:
        return inference_parser(description or "", task)

    def work(options: argparse.Namespace) -> None:
        if options.temperature:
            raise ValueError(
                f"--temperature {options.temperature:g} is not taken: what is compared is answered greedily, at 0"
            )
        infer(experiment_settings(task, options, UNNAMED), plan_spec(options), table)

    def main(arguments: Sequence[str] | None = None) -> int:
        return launch(script_parser(), work, arguments)

    return script_parser, main


# ---------------------------------------------------------------------------------------------- custom_selection_inference


def custom_selection_parser(description: str) -> argparse.ArgumentParser:
    """The common flags and those of the selection."""
    flags = common(description, "results_METHOD.json", lengths=SPANS["use_custom_selection"])
    add_plan_flags(flags)
    flags.set_defaults(output_file=None, use_custom_selection=True)
    flags.add_argument("--baseline", action="store_true", help="run only the full model")
    return flags


def infer_custom_selection(settings: ExperimentSettings, spec: PlanSpec) -> None:
    """Evaluate custom selection on ScienceQA, or with its switch off the full model, and write the documented JSON."""
    experiment = Experiment("custom_selection", settings)
    plan, config = one_plan(spec, experiment.config), with_knobs(experiment.config, spec.knobs)
    outcome, others = compare(experiment, plan)
    start, tokens = experiment.span()
    content = {
        **answer_table(outcome),
        "model_config": {
            "use_custom_selection": config.use_custom_selection,
            "sys_length": start,
            "img_length": tokens,
            **{name: getattr(config, knob) for name, knob in CUSTOM_KNOBS.items()},
        },
        "controls": {name: answer_table(other) for name, other in others.items()},
    }
    save(named(settings, f"results_{config.custom_selection_method if plan else 'baseline'}.json"), content)


def custom_selection_command(description: str | None) -> tuple[Callable[[], argparse.ArgumentParser], Command]:
    """The parser and the main function of the script on custom selection."""

    def script_parser() -> argparse.ArgumentParser:
        return custom_selection_parser(description or "")

    def work(options: argparse.Namespace) -> None:
        spec = plan_spec(options)
        if options.baseline:
            spec = replace(spec, knobs={**spec.knobs, "use_custom_selection": False})
        infer_custom_selection(experiment_settings("scienceqa", options, UNNAMED), spec)

    def main(arguments: Sequence[str] | None = None) -> int:
        return launch(script_parser(), work, arguments)

    return script_parser, main
