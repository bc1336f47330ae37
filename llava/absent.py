"""LLaVA's modules and names that this package lacks, each with what to use in its place.

Importing one raises an ImportError that says so. A name that this package can serve is not listed here: it is a thin
function over ours, in the place where LLaVA has it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from typing import Any

_LOAD = "load_pretrained_model reads every published layout"
_SERVE = (
    "python -m llava.serve.openai serves any number of clients from one process, python -m llava.serve.cli one dialogue"
)
_GPT = "it asks GPT-4 through an interface that OpenAI has withdrawn; score with llava.eval.run or a judge of your own"
_ATTENTION = (
    'give load_pretrained_model attn_implementation="flash_attention_2" or "sdpa", or train(attn_implementation=...)'
)
_TASKS = "python -m llava.eval.eval_answers scores answers files on every task of this package"
_MPT = "MPT models are not supported; use LlavaLlamaForCausalLM, LlavaMistralForCausalLM or LlavaQwenForCausalLM"
_DELTA = "no checkpoint since v1.3 is a difference of weights; use liuhaotian/llava-v1.5-7b or a later one"

MODULES = {
    "llava.model.language_model.llava_mpt": _MPT,
    "llava.model.utils": f"auto_upgrade changed configs of v0; {_LOAD} and changes no file",
    "llava.model.consolidate": f"{_LOAD}, and model.save_pretrained(folder) writes it whole",
    "llava.model.apply_delta": _DELTA,
    "llava.model.make_delta": _DELTA,
    "llava.eval.eval_gpt_review": _GPT,
    "llava.eval.eval_gpt_review_bench": _GPT,
    "llava.eval.eval_gpt_review_visual": _GPT,
    "llava.eval.eval_science_qa_gpt4": _GPT,
    "llava.eval.eval_science_qa_gpt4_requery": _GPT,
    "llava.eval.qa_baseline_gpt35": _GPT,
    "llava.eval.summarize_gpt_review": _GPT,
    "llava.eval.generate_webpage_data_from_table": "llava report writes a page from result folders",
    "llava.eval.model_qa": "ask text questions with llava.ask(model, None, question)",
    "llava.train.train_xformers": f"use llava.train.train; {_ATTENTION}",
    "llava.train.llama_flash_attn_monkey_patch": _ATTENTION,
    "llava.train.llama_xformers_attn_monkey_patch": _ATTENTION,
    "llava.serve.controller": _SERVE,
    "llava.serve.gradio_web_server": _SERVE,
    "llava.serve.model_worker": _SERVE,
    "llava.serve.register_worker": _SERVE,
    "llava.serve.sglang_worker": _SERVE,
    "llava.serve.test_message": _SERVE,
}

NAMES = {
    "llava.utils": {
        "StreamToLogger": "redirect with contextlib.redirect_stdout, or log with the logger that build_logger returns",
        "handler": "the handlers of a logger that build_logger returns are in its .handlers",
    },
    "llava.model": {"LlavaMptConfig": _MPT, "LlavaMptForCausalLM": _MPT},
    "llava.model.multimodal_projector.builder": {
        "SimpleResBlock": "no mm_projector_type of LLaVA builds it; use 'linear', 'mlp2x_gelu' or 'identity'"
    },
    "llava.eval.eval_science_qa": {
        "convert_caps": "captions are scored by llava.eval.run --task coco_caption, which reads its own answers"
    },
    "llava.eval.m4c_evaluator": {
        "STVQAAccuracyEvaluator": f"ST-VQA is no task here; {_TASKS}",
        "STVQAANLSEvaluator": f"ST-VQA is no task here; {_TASKS}",
        "TextCapsBleu4Evaluator": "TextCaps is no task here; pycocoevalcap computes BLEU-4",
    },
    "llava.train.train": {
        "local_rank": "it is trainer.args.local_rank, and LOCAL_RANK in the environment",
    },
    "llava.train.llava_trainer": {
        "split_to_even_chunks": "llava.train.sampler.EpochSampler deals the records of a step to its devices by length",
    },
}


class AbsentModules(MetaPathFinder):
    """The finder that Python asks last: for a module that was not found, it says what to use instead."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> None:
        """None for names that are not LLaVA's; ModuleNotFoundError for those that are."""
        if fullname in MODULES:
            # Without `name=`: `from package import module` would swallow the message.
            raise ModuleNotFoundError(f"{fullname} is not part of llava-condense: {MODULES[fullname]}")


def say_what_to_use() -> None:
    """Make imports of `MODULES` say what to use instead; a second call changes nothing."""
    if not any(isinstance(finder, AbsentModules) for finder in sys.meta_path):
        sys.meta_path.append(AbsentModules())


def absent_names(module: str) -> Callable[[str], Any]:
    """A ``__getattr__`` for a module, which raises ImportError for its entries in `NAMES`, else AttributeError."""

    def missing(name: str) -> Any:
        if name in NAMES[module]:
            raise ImportError(f"{module}.{name} is not part of llava-condense: {NAMES[module][name]}")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return missing
