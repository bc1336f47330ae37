"""Visual-token reduction: ledger, stages, evidence, methods. Never imports ``llava.model``; of transformers only how a
layer calls its attention."""

from . import methods  # noqa: F401  registers every method
from .aggregate import Merged
from .checks import did_you_mean
from .context import reduced
from .cost import Cost
from .evidence import Evidence, Need, attention_rows
from .export import kept_count, kept_indices, kept_tokens, qualifies
from .ledger import Ledger
from .plan import check_plan, plan_from, plan_name, spelled_out
from .record import Record
from .registry import get_method, list_methods, make_stage, method_names, method_page, register
from .stage import Place, Reducer, Stage

__all__ = [
    "Cost",
    "Evidence",
    "Ledger",
    "Merged",
    "Need",
    "Place",
    "Record",
    "Reducer",
    "Stage",
    "attention_rows",
    "check_plan",
    "did_you_mean",
    "get_method",
    "kept_count",
    "kept_indices",
    "kept_tokens",
    "list_methods",
    "make_stage",
    "method_names",
    "method_page",
    "plan_from",
    "plan_name",
    "qualifies",
    "reduced",
    "register",
    "spelled_out",
]
