"""Visual-token reduction: ledger, stages, evidence, methods. Imports torch only, never ``llava.model``."""

from . import methods  # noqa: F401  registers every method
from .context import reduced
from .cost import Cost
from .evidence import Evidence, Need, attention_rows
from .ledger import Ledger
from .registry import (
    check_plan,
    did_you_mean,
    get_method,
    list_methods,
    make_stage,
    method_table,
    plan_from,
    plan_name,
    register,
)
from .stage import Place, Record, Reducer, Stage

__all__ = [
    "Cost",
    "Evidence",
    "Ledger",
    "Need",
    "Place",
    "Record",
    "Reducer",
    "Stage",
    "attention_rows",
    "check_plan",
    "did_you_mean",
    "get_method",
    "list_methods",
    "make_stage",
    "method_table",
    "plan_from",
    "plan_name",
    "reduced",
    "register",
]
