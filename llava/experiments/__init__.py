"""The documents' experiments: plans on a grid of layers, answered by the one harness, as documented JSON and a figure.

A script in ``scripts/`` holds what only it knows: its flags, its plans and the keys of its JSON. Here is what they share:
``command`` the flags, ``sweep`` the runs and their controls, ``tables`` the JSON, ``figure`` the curves, ``single`` one plan
alone.
"""

from .command import add_layer_flags, add_plan_flags, add_question_flags, launch, one_plan, parser, save, spelled
from .figure import Panel, accuracy_panel, draw, halves_panel, points, total_panel
from .single import compare, infer, inference_parser
from .sweep import Experiment, Outcome, Sweep, control, cut, eval_settings
from .tables import accuracy_table, answer_table, baseline, flat_table, half_score, mme_table, score_table, tables

__all__ = [
    "Experiment",
    "Outcome",
    "Panel",
    "Sweep",
    "accuracy_panel",
    "accuracy_table",
    "add_layer_flags",
    "add_plan_flags",
    "add_question_flags",
    "answer_table",
    "baseline",
    "compare",
    "control",
    "cut",
    "draw",
    "eval_settings",
    "flat_table",
    "half_score",
    "halves_panel",
    "infer",
    "inference_parser",
    "launch",
    "mme_table",
    "one_plan",
    "parser",
    "points",
    "save",
    "score_table",
    "spelled",
    "tables",
    "total_panel",
]
