"""The server's view of this package's own LLaVA models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import Conversation
from llava.mm_utils import process_images, question_with_images, tokenizer_image_token
from llava.model.builder import context_length
from llava.reduction import Stage, check_plan, plan_from

from .chat import Job, Prompt, Question, Turn
from .generation import end_ids, generation_options, group_of, most_new_tokens
from .picture_cache import PictureCache, together
from .progress import AnswerText, Progress


@dataclass(frozen=True)
class _Inputs:
    """The ids (S,) of a prompt, its pictures as tensors, their (width, height) and seeds, and the plan."""

    ids: Tensor
    images: list[Tensor]
    sizes: list[tuple[int, int]]
    seeds: list[int]
    plan: list[Stage]


class LlavaChat:
    """A LLaVA model, its tokenizer, its image processor and its prompt template as a ``Chat``.

    picture_cache: bytes of what the tower saw of the last pictures that are kept for questions to come.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        model: Any,
        image_processor: Any,
        conversation: Conversation,
        picture_cache: int = 0,
    ):
        self.name, self.tokenizer, self.model, self.image_processor = name, tokenizer, model, image_processor
        self.conversation = conversation
        self._pictures = PictureCache(model, picture_cache)
        self._layers = model.config.num_hidden_layers
        self._stops = (conversation.stop_string,)
        self._ends = end_ids(tokenizer, model, self._stops)

    def prepare(self, question: Question, most_tokens: int) -> Prompt:
        """The prompt of a dialogue, its pictures preprocessed, checked against the model's positions and plan."""
        spec = question.reduction
        plan = self.model.get_model().plan() if spec is None else plan_from(spec)
        check_plan(plan, self._layers)
        ids = tokenizer_image_token(self._written(question.turns), self.tokenizer, return_tensors="pt")
        pictures = [image for turn in question.turns for image in turn.images]
        images = list(process_images(pictures, self.image_processor, self.model.config)) if pictures else []
        sizes = [picture.size for picture in pictures]
        seeds = self.model.image_seeds(together(images)) if images else []
        visual = sum(self.model.visual_tokens(together(images), sizes)) if images else 0
        positions = len(ids) - len(images) + visual
        return Prompt(
            inputs=_Inputs(ids, images, sizes, seeds, plan),
            sampling=question.sampling,
            max_tokens=most_new_tokens(
                question.sampling, positions, visual, context_length(self.model.config), most_tokens
            ),
            positions=positions,
            visual=visual,
            group=group_of(question.sampling, plan),
        )

    @torch.inference_mode()
    def generate(self, jobs: Sequence[Job]) -> None:
        """Answer prompts of one group in one ``generate``."""
        inputs: list[_Inputs] = [job.prompt.inputs for job in jobs]
        rows = [part.ids for part in inputs]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        images = [image for part in inputs for image in part.images]
        progress = Progress(
            jobs,
            [AnswerText(self.tokenizer, (*self._stops, *job.prompt.sampling.stop)) for job in jobs],
            self._ends,
            lambda: [cost.visual_per_layer for cost in self.model.last_cost()],
        )
        pictures: dict[str, Any] = {}
        if images:
            pictures = {
                "raw_vision_features": self._pictures.see(images, inputs[0].plan),
                "image_sizes": [size for part in inputs for size in part.sizes],
                "image_seeds": [seed for part in inputs for seed in part.seeds],
            }
        with generation_options(jobs, progress) as options:
            self.model.generate(
                ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                reduction=inputs[0].plan,
                **pictures,
                **options,
            )

    def _written(self, turns: Sequence[Turn]) -> str:
        """A dialogue as the template writes it, pictures as image tokens, with a slot for the answer."""
        dialogue = self.conversation.copy()
        for turn in turns:
            text = turn.text
            if turn.role == "user":
                text = question_with_images(text, len(turn.images), self.model.config)
            elif DEFAULT_IMAGE_TOKEN in text:
                raise ValueError(
                    f"an assistant's turn holds {DEFAULT_IMAGE_TOKEN}, which stands for a picture; take it out"
                )
            dialogue.append_message(dialogue.roles[turn.role == "assistant"], text)
        dialogue.append_message(dialogue.roles[1], None)
        return dialogue.get_prompt()
