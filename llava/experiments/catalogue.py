"""The documents' experiments over layers: what each of them compares."""

from __future__ import annotations

from llava.cli.questions import spelled
from llava.eval.report.panels import Panel
from llava.reduction import Stage, did_you_mean, make_stage

from .diversity import Diversity
from .layers import Flag, LayerExperiment, Options, PlanAt
from .sweep import Sweep
from .tables import half_score

CUT_OFF_LABEL = "first layer without visual tokens\n(random: the same average number of tokens per layer)"
KEPT_TOKENS = Flag("kept_tokens", {"type": int, "default": 8, "help": "tokens kept (default: 8)"})


def no_picture(_options: Options) -> dict[str, PlanAt]:
    """The picture is taken away at the layer: FastV with a rank of 0."""
    return {"cut-off": lambda layer: [make_stage("blind", layer=layer)]}


FASTV_LAYER_CUTOFF = LayerExperiment(
    "fastv_layer_cutoff",
    "scienceqa",
    ("fastv_layer_cutoff_results", "fastv_layer_cutoff_plot"),
    no_picture,
    lambda _options: "no picture from a layer on",
    x_label=CUT_OFF_LABEL,
)

MME_CUTOFF = LayerExperiment(
    "mme_cutoff",
    "mme",
    ("mme_layer_cutoff_results", "mme_layer_cutoff_plot"),
    no_picture,
    lambda _options: "no picture from a layer on",
    x_label=CUT_OFF_LABEL,
)


def few_by_fastv(options: Options) -> dict[str, PlanAt]:
    """FastV keeps a few tokens from the layer on."""
    return {"fastv": lambda layer: [make_stage("fastv", layer=layer, keep=options["kept_tokens"])]}


FASTV_SPARSE_LAYER = LayerExperiment(
    "fastv_sparse_layer",
    "scienceqa",
    ("fastv_sparse_layer_results", "fastv_sparse_layer_plot"),
    few_by_fastv,
    lambda options: f"{options['kept_tokens']} visual tokens from a layer on",
    flags=(KEPT_TOKENS,),
    budget="kept_tokens",
    recorded=("kept_tokens",),
)


def few_mixed(options: Options) -> dict[str, PlanAt]:
    """Custom selection keeps a few centres, each mixed with the tokens that are like it, from the layer on."""

    def plan(layer: int) -> list[Stage]:
        settings = {"strategy": options["selection_method"], "temperature": options["custom_temperature"]}
        place, keep = options["custom_placement"], options["kept_tokens"]
        return [make_stage("custom_selection", layer=layer, keep=keep, place=place, **settings)]

    return {options["selection_method"]: plan}


FASTV_CUSTOM_SELECTION = LayerExperiment(
    "fastv_custom_selection",
    "scienceqa",
    ("custom_selection_results", "custom_selection_plot"),
    few_mixed,
    lambda options: f"{options['kept_tokens']} mixed visual tokens from a layer on",
    flags=(
        KEPT_TOKENS,
        Flag("selection_method", {"choices": ("fps", "tome"), "default": "fps"}),
        Flag("custom_temperature", {"type": float, "default": 0.1, "help": "of the mixture (default: 0.1)"}),
        Flag("custom_placement", {"choices": ("drop", "zero_fill"), "default": "drop"}),
    ),
    budget="kept_tokens",
    recorded=("kept_tokens", "selection_method"),
)

CONDENSATION_METHODS = ("hard_pruning", "condensation_fps", "condensation_connectivity")


def condensed(options: Options) -> dict[str, PlanAt]:
    """Hard pruning and condensation's two strategies, those that are asked for."""
    wanted = [name for name in CONDENSATION_METHODS if options["run_all"] or options[f"run_{name}"]]
    if not wanted:
        choices = ", ".join(spelled(f"run_{name}") for name in CONDENSATION_METHODS)
        raise ValueError(f"nothing to run; give --run-all, or of {choices} those wanted")
    keep = options["target_tokens"]
    plans: dict[str, PlanAt] = {
        "hard_pruning": lambda layer: [make_stage(options["hard_pruning_method"], layer=layer, keep=keep)],
        "condensation_fps": lambda layer: [make_stage("condensation", layer=layer, keep=keep, strategy="fps")],
        "condensation_connectivity": lambda layer: [
            make_stage("condensation", layer=layer, keep=keep, strategy="connectivity")
        ],
    }
    return {name: plans[name] for name in wanted}


def improvement_panels(sweep: Sweep) -> list[Panel]:
    """The gain over hard pruning, where that and something else ran."""
    return [improvement_panel(sweep)] if "hard_pruning" in sweep.curves and len(sweep.curves) > 1 else []


def improvement_panel(sweep: Sweep) -> Panel:
    """The total of every other method less that of hard pruning at the layer, in per cent of the latter."""
    hard, curves = sweep.curves["hard_pruning"], {}
    for name, curve in sweep.curves.items():
        if name != "hard_pruning":
            curves[name] = {}
            for layer, outcome in curve.items():
                if score := hard[layer].metrics["score"]:
                    gain, interval = half_score(outcome, "total", against=hard[layer])
                    curves[name][layer] = (100 * gain / score, [100 * bound / score for bound in interval])
    return Panel("total score over hard pruning's, %", curves, {"_hard pruning": (0.0, [0.0, 0.0])})


MME_CONDENSATION = LayerExperiment(
    "mme_condensation",
    "mme",
    ("mme_condensation_results", "mme_condensation_comparison"),
    condensed,
    lambda options: f"{options['target_tokens']} visual tokens kept",
    first=5,
    last=15,
    flags=(
        Flag("run_all", {"action": "store_true", "help": "all three"}),
        *(Flag(f"run_{name}", {"action": "store_true"}) for name in CONDENSATION_METHODS),
        Flag("hard_pruning_method", {"choices": ("himap", "fastv"), "default": "himap"}),
        Flag("target_tokens", {"type": int, "default": 100, "help": "tokens kept (default: 100)"}),
    ),
    budget="target_tokens",
    table="named",
    extra_panels=improvement_panels,
)

DIVERSITY_METHODS = ("fps", "tome")


def diverse(options: Options) -> dict[str, PlanAt]:
    """Tokens that stand for the others, by each method asked for."""
    methods = list(dict.fromkeys(options["methods"].split(",")))
    for name in methods:
        if name not in DIVERSITY_METHODS:
            raise ValueError(
                f"--methods {name!r} is unknown{did_you_mean(name, DIVERSITY_METHODS)}; choose of "
                f"{', '.join(DIVERSITY_METHODS)}"
            )

    def plan_of(name: str) -> PlanAt:
        return lambda layer: [Stage(Diversity(name, options["metric"]), "layer", layer, options["keep_tokens"])]

    return {name: plan_of(name) for name in methods}


MME_DIVERSITY_PRUNING = LayerExperiment(
    "mme_diversity_pruning",
    "mme",
    ("mme_diversity_pruning_results", "mme_diversity_pruning_plot"),
    diverse,
    lambda options: f"{options['keep_tokens']} visual tokens from a layer on",
    first=1,
    layer_names=("layer_start", "layer_end"),
    flags=(
        Flag("keep_tokens", {"type": int, "default": 8, "help": "tokens kept (default: 8)"}),
        Flag(
            "methods",
            {
                "default": ",".join(DIVERSITY_METHODS),
                "help": f"of {', '.join(DIVERSITY_METHODS)}, with commas (default: all)",
            },
        ),
        Flag("metric", {"choices": ("cosine", "l2"), "default": "cosine", "help": "of likeness (default: cosine)"}),
    ),
    budget="keep_tokens",
    table="named",
)
