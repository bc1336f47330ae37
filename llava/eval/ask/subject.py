"""A model under evaluation: it encodes each picture once and answers questions about it, with what they cost.

``LlavaSubject`` is a loaded LLaVA; anything with the methods of ``Subject`` can take its place in the loop.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor

from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import get_conversation
from llava.mm_utils import process_images, question_with_images, tokenizer_image_token
from llava.model.builder import context_length
from llava.model.language_model.llava_family import LlavaFamilyConfig, LlavaFamilyForCausalLM
from llava.model.vision.seen_image import SeenImage
from llava.pictures import picture_size
from llava.reduction import Cost, Stage, reduced


class QuestionError(ValueError):
    """A question that cannot be asked, while others can; the text says why."""


@dataclass(frozen=True)
class Generation:
    """How answers are drawn; the default is greedy. ``temperature`` 0 is greedy, above it samples (with ``top_p``)."""

    max_new_tokens: int = 16
    temperature: float = 0.0
    top_p: float | None = None
    num_beams: int = 1

    def __post_init__(self) -> None:
        for name, least in (("max_new_tokens", 1), ("num_beams", 1), ("temperature", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must lie in (0, 1]")

    def keywords(self) -> dict[str, Any]:
        """The keywords of ``generate``."""
        sampling = self.temperature > 0
        return {
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.num_beams,
            "do_sample": sampling,
            "temperature": self.temperature if sampling else None,
            "top_p": self.top_p if sampling else None,
        }


@dataclass(frozen=True)
class Reply:
    """One answer: the model's words, its visual tokens layer by layer, and what the prompt cost (plain numbers).

    ``prefill_seconds``: this question's share of the time until the batch's first new token; None where not measured.
    """

    text: str
    kept: list[int]
    cost: dict[str, float]
    prefill_seconds: float | None = None


class Subject(Protocol):
    """What is evaluated: anything that turns pictures into features and questions about them into replies."""

    def encode(self, images: Sequence[Image.Image], plan: Sequence[Stage] = ()) -> list[Any]:
        """Each picture as ``answer`` can use it; of the plan matters what it does, and asks, before the projector."""
        ...

    def answer(
        self, texts: Sequence[str], features: Sequence[Any], plan: list[Stage], generation: Generation
    ) -> list[Reply]:
        """A reply to each text about its picture's features (None: no picture) under a plan.

        Raises QuestionError where one of the texts cannot be asked; the loop then asks each alone.
        """
        ...

    def length(self, text: str, image: Path | None) -> int:
        """About how long the prompt will be; questions of similar length are put into one batch."""
        ...


class SubjectWrapper:
    """A subject that leaves the work to another one; a subclass overrides the part that it changes."""

    def __init__(self, subject: Any):
        self.subject = subject

    def encode(self, images: Sequence[Image.Image], plan: Sequence[Stage] = ()) -> list[Any]:
        """As the subject inside does."""
        return self.subject.encode(images, plan)

    def answer(
        self, texts: Sequence[str], features: Sequence[Any], plan: list[Stage], generation: Generation
    ) -> list[Reply]:
        """As the subject inside does."""
        return self.subject.answer(texts, features, plan, generation)

    def length(self, text: str, image: Path | None) -> int:
        """As the subject inside says."""
        return self.subject.length(text, image)


@dataclass(frozen=True)
class Picture:
    """One picture as ``LlavaSubject`` answers about it: what the tower made of it, (width, height), and its seed.

    ``pixels``: (3, H, W) or (crops, 3, H, W).
    """

    seen: SeenImage
    pixels: Tensor
    size: tuple[int, int]
    seed: int


class LlavaSubject:
    """A loaded LLaVA with its tokenizer, picture processor and conversation template, as the loop wants it."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: LlavaFamilyForCausalLM,
        image_processor: BaseImageProcessor | None,
        conv_mode: str = "vicuna_v1",
    ):
        self.tokenizer, self.model, self.image_processor = tokenizer, model, image_processor
        self.conv_mode = conv_mode

    @torch.inference_mode()
    def encode(self, images: Sequence[Image.Image], plan: Sequence[Stage] = ()) -> list[Picture]:
        """Each picture as the tower sees it under the plan, before the projector, with its size and the seed of its pixels."""
        pixels = process_images(list(images), self.image_processor, self.model.config)
        seen = self.model.encode_seen(pixels, list(plan))
        seeds = self.model.image_seeds(pixels)
        return [
            Picture(one, view, image.size, seed)
            for one, view, image, seed in zip(seen, pixels, images, seeds, strict=True)
        ]

    @torch.inference_mode()
    def answer(
        self,
        texts: Sequence[str],
        features: Sequence[Any],
        plan: list[Stage],
        generation: Generation = Generation(),  # noqa: B008
    ) -> list[Reply]:
        """Replies to a batch of questions, each about its own picture or none.

        Raises QuestionError for a prompt that does not fit into the model's positions or whose text is not valid.
        """
        prompts = [self.prompt_ids(text, feature is not None) for text, feature in zip(texts, features)]
        limit = context_length(self.model.config)
        for prompt in prompts:
            check_fits(words_in(prompt), limit)
        width, fill = max(map(len, prompts)), self.tokenizer.pad_token_id or 0
        device = self.model.device
        ids = torch.tensor([[fill] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        pictures = [picture for picture in features if picture is not None]
        clock = _FirstToken(device)
        with reduced(self.model, plan):
            new = self.model.generate(
                ids,
                attention_mask=mask,
                pad_token_id=fill,
                use_cache=True,
                logits_processor=LogitsProcessorList([clock]),
                **generation.keywords(),
                **(vision_inputs(pictures) if pictures else {}),
            )
            costs = self.model.last_cost()
        for prompt, cost in zip(prompts, costs, strict=True):
            entered, visual = cost.rows_per_layer[0], cost.visual_per_layer[0]
            # The model cuts what does not fit, so words are missing then.
            check_fits(entered if entered - visual >= words_in(prompt) else limit + 1, limit)
        words = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [
            Reply(
                text.strip(),
                cost.visual_per_layer,
                plain_cost(cost),
                None if clock.seconds is None else clock.seconds / len(texts),
            )
            for text, cost in zip(words, costs, strict=True)
        ]

    def prompt_ids(self, text: str, has_picture: bool) -> list[int]:
        """The ids of a question in the conversation template, the picture's placeholder first."""
        return prompt_ids(self.tokenizer, self.model.config, self.conv_mode, text, has_picture)

    def length(self, text: str, image: Path | None) -> int:
        """Characters of the question, and for a model that cuts pictures into crops the pixels, which decide how many."""
        if image is None or "anyres" not in getattr(self.model.config, "image_aspect_ratio", ""):
            return len(text)
        try:
            width, height = picture_size(image)
        except (OSError, ValueError):  # the loop says so when it is the picture's turn
            return 0
        return width * height + len(text)


def vision_inputs(pictures: Sequence[Picture]) -> dict[str, Any]:
    """The keywords that hand encoded pictures to a model."""
    return {
        "raw_vision_features": [picture.seen for picture in pictures],
        "image_sizes": [picture.size for picture in pictures],
        "image_seeds": [picture.seed for picture in pictures],
    }


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, config: LlavaFamilyConfig, conv_mode: str, text: str, has_picture: bool = True
) -> list[int]:
    """The ids of a question in a conversation template; the picture's place is IMAGE_TOKEN_INDEX.

    That is where the text has `<image>`, else in front of it; without a picture `<image>` is words like others. Raises
    QuestionError for several `<image>` about one picture, and for a text that is not valid (half of a surrogate pair).
    """
    talk = get_conversation(conv_mode)
    try:
        talk.append_message(talk.roles[0], question_with_images(text, 1, config) if has_picture else text)
        talk.append_message(talk.roles[1], None)
        return tokenizer_image_token(talk.get_prompt(), tokenizer, IMAGE_TOKEN_INDEX if has_picture else None)
    except ValueError as error:
        raise QuestionError(str(error)) from None


def words_in(prompt: Sequence[int]) -> int:
    """How many ids of a prompt are text."""
    return len(prompt) - list(prompt).count(IMAGE_TOKEN_INDEX)


def check_fits(positions: int, limit: int) -> None:
    """Raises QuestionError for a prompt of more positions, image tokens included, than the model reads."""
    if positions > limit:
        raise QuestionError(
            f"the prompt does not fit into the model's {limit} positions, image tokens included; shorten the question"
        )


class _FirstToken(LogitsProcessor):
    """Notes when the first logits are there, which is when the prefill ends; changes nothing."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: float | None = None
        self.start = self._now()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.seconds is None:
            self.seconds = self._now() - self.start
        return scores

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def plain_cost(cost: Cost) -> dict[str, float]:
    """A cost as the numbers of a line."""
    parts = ("tower_flops", "projector_flops", "selector_flops", "llm_flops")
    return {
        "visual_tokens": cost.visual_tokens,
        **{name: getattr(cost, name) for name in parts},
        "total_flops": cost.total_flops,
        "kv_bytes": cost.kv_bytes,
    }
