"""What a harness asks, as the models behind ``llava.serve`` read it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_PLACEHOLDER
from llava.serve.openai.chat import Sampling, Turn

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 1024  # where a harness names no limit
NO_STOP = (
    "\n\n"  # what lmms-eval gives every task that names no stop string; answers of several paragraphs would be cut
)
UNDERSTOOD = ("max_new_tokens", "temperature", "top_p", "do_sample", "num_beams", "until", "use_cache")

Part = str | Image.Image


@dataclass(frozen=True)
class Asked:
    """A question of a harness: the dialogue, how it is answered, and the task it belongs to.

    most: the largest number of new tokens; fewer where the model's positions end sooner.
    """

    turns: Sequence[Turn]
    sampling: Sampling
    most: int = MAX_NEW_TOKENS
    task: str = ""


def user_turn(parts: Sequence[Part]) -> Turn:
    """A user's turn from texts and pictures in their order.

    Pictures before all texts go in front as in LLaVA's training; one between texts leaves its place there. A text that has
    LLaVA's ``<image>`` for every picture says itself where they belong. Raises ValueError for a part that is neither.
    """
    for part in parts:
        if not isinstance(part, str | Image.Image):
            raise ValueError(f"a question holds a {type(part).__name__}; only texts and pictures can be asked about")
    images = [part for part in parts if isinstance(part, Image.Image)]
    texts = [part for part in parts if isinstance(part, str)]
    whole = "\n".join(texts)
    if images and whole.count(DEFAULT_IMAGE_TOKEN) == len(images):
        in_front = f"{DEFAULT_IMAGE_TOKEN}\n" * len(images)
        if whole.startswith(in_front):
            return Turn("user", whole.removeprefix(in_front), images)
        return Turn("user", whole.replace(DEFAULT_IMAGE_TOKEN, IMAGE_PLACEHOLDER), images)
    if all(isinstance(part, str) for part in parts[len(images) :]):
        return Turn("user", whole, images)
    return Turn("user", "\n".join(part if isinstance(part, str) else IMAGE_PLACEHOLDER for part in parts), images)


def dialogue(messages: Iterable[tuple[str, Sequence[Part]]]) -> list[Turn]:
    """Turns from (role, parts); what the system says goes in front of the first question.

    The templates have a text of their own in the system's place, which the models were trained with. Raises ValueError for
    turns that are not user, assistant, user, ..., user, and for a picture in an answer.
    """
    turns: list[Turn] = []
    system: list[Part] = []
    for role, parts in messages:
        if role == "system":
            system += parts
            continue
        if role != ("assistant" if len(turns) % 2 else "user"):
            raise ValueError(
                f"turn {len(turns) + 1} is of role {role!r}; turns must be user, assistant, user, ..., user"
            )
        if role == "user":
            turns.append(user_turn([*system, *parts]))
            system = []
        elif all(isinstance(part, str) for part in parts):
            turns.append(Turn("assistant", "\n".join(map(str, parts))))
        else:
            raise ValueError("an assistant's turn holds a picture; only a user's can")
    if len(turns) % 2 == 0:
        raise ValueError("a dialogue must end with a user's turn")
    return turns


def sampling_from(keywords: Mapping[str, Any]) -> tuple[Sampling, int]:
    """How an answer is written, and its most new tokens, from the keywords of a ``generate``.

    max_new_tokens: default 1024. temperature 0, None or ``do_sample=False``: greedy. until: stop strings. A keyword
    that has no effect here is named in a warning, once. Raises ValueError for several beams, and for impossible values.
    """
    beams = keywords.get("num_beams") or 1
    if beams != 1:
        raise ValueError(f"num_beams={beams} is not supported; answers are written word by word, give num_beams=1")
    for name in keywords:
        if name not in UNDERSTOOD:
            _warn_once(f"the generation keyword {name} has no effect here")
    most = keywords.get("max_new_tokens") or MAX_NEW_TOKENS
    temperature = keywords.get("temperature") or 0.0
    if keywords.get("do_sample") is False:
        temperature = 0.0
    top_p = keywords.get("top_p") or 1.0
    if most < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"max_new_tokens={most}, temperature={temperature}, top_p={top_p}: give at least 1, at least 0, and in (0, 1]"
        )
    until = keywords.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    return Sampling(None, temperature, top_p, stop=tuple(stop for stop in stops if stop not in ("", NO_STOP))), most


@lru_cache(maxsize=256)
def _warn_once(message: str) -> None:
    logger.warning("%s", message)
