"""The arguments of one ``generate`` for several prompts, whatever the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import StoppingCriteriaList

from llava.reduction import Stage

from .chat import Job, Sampling
from .progress import Progress


@contextmanager
def generation_options(jobs: Sequence[Job], progress: Progress) -> Iterator[dict[str, Any]]:
    """Keywords of ``generate`` for prompts of one group; within the block random numbers follow their seed."""
    sampling = jobs[0].prompt.sampling
    with torch.random.fork_rng(enabled=sampling.seed is not None):
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        yield {
            "stopping_criteria": StoppingCriteriaList([progress]),
            "max_new_tokens": max(job.prompt.max_tokens for job in jobs),
            "do_sample": sampling.temperature > 0,
            "temperature": sampling.temperature or None,
            "top_p": sampling.top_p if sampling.temperature else None,
        }


def group_of(sampling: Sampling, plan: list[Stage]) -> tuple[Any, ...] | None:
    """What prompts that share a batch have in common. A seed is for one answer, independent of others."""
    if sampling.temperature and sampling.seed is not None:
        return None
    chance = (sampling.temperature, sampling.top_p) if sampling.temperature else ()
    return *chance, *map(str, plan)


def most_new_tokens(sampling: Sampling, positions: int, visual: int, limit: int, most: int) -> int:
    """How long an answer may be. Raises ValueError where prompt and answer exceed the model's ``limit`` positions."""
    wanted, spare = sampling.max_tokens, limit - positions
    if spare < (wanted or 1):
        raise ValueError(
            f"the prompt of {positions} positions, {visual} of them of pictures, and an answer of {wanted or 1} tokens"
            f" exceed the model's {limit} positions; shorten the prompt or max_tokens"
        )
    return min(most, spare) if wanted is None else wanted


def end_ids(tokenizer: Any, model: Any, stops: Sequence[str]) -> frozenset[int]:
    """The ids that end an answer: the model's own, and the template's where it is one special token."""
    own = model.generation_config.eos_token_id
    ends = set(own) if isinstance(own, list | tuple) else {own}
    special = set(tokenizer.all_special_ids)
    for stop in stops:
        ids = [token for token in tokenizer(stop).input_ids if token != tokenizer.bos_token_id]
        ends |= set(ids) & special if len(ids) == 1 else set()
    return frozenset(end for end in ends if end is not None)
