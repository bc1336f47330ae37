"""LLaVA with fewer visual tokens: every reduction method under one flag, on really shorter sequences.

    import llava

    tokenizer, model, image_processor, _ = llava.load_pretrained_model("playground/checkpoints/llava-shapes-v1")
    with llava.reduced(model, "fastv@2:64"):
        model.generate(...)

The names below are loaded when they are first used, so that ``import llava`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llava.absent import say_what_to_use
from llava.threads import limit_spinning
from llava.versions import check_transformers

if TYPE_CHECKING:
    from llava.cost import model_cost as model_cost
    from llava.eval.run_llava import ask as ask
    from llava.model.builder import load_pretrained_model as load_pretrained_model
    from llava.model.hosts import Host as Host
    from llava.model.hosts import kept_grids as kept_grids
    from llava.model.hosts import model_trace as model_trace
    from llava.model.hosts import reduced as reduced
    from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM as LlavaLlamaForCausalLM
    from llava.reduction import Reducer as Reducer
    from llava.reduction import Stage as Stage
    from llava.reduction import kept_count as kept_count
    from llava.reduction import kept_indices as kept_indices
    from llava.reduction import kept_tokens as kept_tokens
    from llava.reduction import list_methods as list_methods
    from llava.reduction import plan_from as plan_from
    from llava.reduction import qualifies as qualifies
    from llava.reduction import register as register

__version__ = "0.2.0"

_HOMES = {
    "Host": "llava.model.hosts",
    "LlavaLlamaForCausalLM": "llava.model.language_model.llava_llama",
    "Reducer": "llava.reduction",
    "Stage": "llava.reduction",
    "ask": "llava.eval.run_llava",
    "kept_count": "llava.reduction",
    "kept_indices": "llava.reduction",
    "kept_tokens": "llava.reduction",
    "kept_grids": "llava.model.hosts",
    "list_methods": "llava.reduction",
    "load_pretrained_model": "llava.model.builder",
    "model_cost": "llava.cost",
    "model_trace": "llava.model.hosts",
    "plan_from": "llava.reduction",
    "qualifies": "llava.reduction",
    "reduced": "llava.model.hosts",
    "register": "llava.reduction",
}
__all__ = [*_HOMES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]  the names above, loaded on demand

say_what_to_use()
limit_spinning()
check_transformers()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'llava' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
