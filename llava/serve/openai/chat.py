"""What the server needs from a model: to prepare a request, and to answer several prompts that may share a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from PIL import Image

from llava.reduction.plan import Spec


@dataclass(frozen=True)
class Turn:
    """One turn of a dialogue: text with ``IMAGE_PLACEHOLDER`` where a picture stands, if it says where, and its pictures."""

    role: Literal["user", "assistant"]
    text: str
    images: Sequence[Image.Image] = ()


@dataclass(frozen=True)
class Sampling:
    """How an answer is written. temperature 0 is greedy. max_tokens None: as many as fit and the server allows."""

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """A dialogue that ends with a user's turn. reduction None: the plan that the model was loaded with."""

    turns: Sequence[Turn]
    sampling: Sampling
    reduction: Spec = None


@dataclass(frozen=True)
class Prompt:
    """A question as a model reads it.

    inputs: what the ``Chat`` that made it needs. positions: of the prompt, pictures included and unreduced. visual: those of
    its pictures. group: prompts of one group may share a batch; None: it is answered alone.
    """

    inputs: Any
    sampling: Sampling
    max_tokens: int
    positions: int
    visual: int
    group: Hashable | None


@dataclass(frozen=True)
class Usage:
    """Tokens of a request: of the unreduced prompt, of the answer, and of its pictures.

    visual: before any reduction. visual_per_layer: in each decoder layer.
    """

    prompt: int
    completion: int
    visual: int
    visual_per_layer: Sequence[int]


@dataclass(frozen=True)
class Piece:
    """The next words of an answer."""

    text: str


@dataclass(frozen=True)
class End:
    """The end of an answer: at a stop string or the model's own end, or where the tokens ran out."""

    reason: Literal["stop", "length"]
    usage: Usage


@dataclass
class Job:
    """A prompt to be answered: every piece and the end are given to ``send``; nobody waits once ``cancelled`` is set."""

    prompt: Prompt
    send: Callable[[Piece | End], object]
    cancelled: threading.Event = field(default_factory=threading.Event)


class Chat(Protocol):
    """A model that the server can ask. ``prepare`` may run in several threads, ``generate`` in one at a time."""

    name: str

    def prepare(self, question: Question, most_tokens: int) -> Prompt:
        """A prompt whose answer has at most ``most_tokens``. Raises ValueError for what cannot be asked."""
        ...

    def generate(self, jobs: Sequence[Job]) -> None:
        """Answer prompts of one group; each answer is what its prompt alone gets. Raises ValueError for a plan that cannot run."""
        ...
