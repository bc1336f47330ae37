"""The server's view of vision-language models of transformers as they are, with their own processors and chat templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llava.constants import IMAGE_PLACEHOLDER
from llava.model.hosts import reduced
from llava.model.hosts.families import host_of
from llava.model.hosts.outcome import last_outcome
from llava.reduction import Stage, plan_from
from llava.reduction.plan import Spec

from .chat import Job, Prompt, Question, Turn
from .generation import end_ids, generation_options, group_of, most_new_tokens
from .progress import AnswerText, Progress


@dataclass(frozen=True)
class _Inputs:
    """A dialogue as chat templates take it, what the processor alone makes of it, and the plan."""

    dialogue: list[dict[str, Any]]
    encoded: Any
    plan: list[Stage]


class StockChat:
    """A model of ``AutoModelForImageTextToText`` and its processor as a ``Chat``; plans run inside ``reduced``.

    reduction: the plan of requests that name none. Raises ValueError for a model that is not a known host, and for a
    processor without a chat template.
    """

    def __init__(self, name: str, model: Any, processor: Any, reduction: Spec = None):
        host = host_of(model)
        if host is None or (token := host.token(model.config, "image")) is None:
            raise ValueError(f"{type(model).__name__} takes no pictures; serve a vision-language model")
        if processor.chat_template is None:
            raise ValueError(f"the processor of {name} has no chat template, with which a dialogue becomes a prompt")
        self.name, self.model, self.processor, self.reduction = name, model, processor, plan_from(reduction)
        self.processor.tokenizer.padding_side = "left"
        self._image_token: int = token
        self._ends = end_ids(processor.tokenizer, model, ())
        text = model.config.get_text_config()
        self._layers, self._limit = text.num_hidden_layers, text.max_position_embeddings

    def prepare(self, question: Question, most_tokens: int) -> Prompt:
        """The prompt of a dialogue by the processor; its plan is checked when it is answered."""
        plan = self.reduction if question.reduction is None else plan_from(question.reduction)
        dialogue = [self._message(turn) for turn in question.turns]
        encoded = self._encoded([dialogue])
        positions = encoded["input_ids"].shape[1]
        visual = int((encoded["input_ids"] == self._image_token).sum())
        return Prompt(
            inputs=_Inputs(dialogue, encoded, plan),
            sampling=question.sampling,
            max_tokens=most_new_tokens(question.sampling, positions, visual, self._limit, most_tokens),
            positions=positions,
            visual=visual,
            group=group_of(question.sampling, plan),
        )

    @torch.inference_mode()
    def generate(self, jobs: Sequence[Job]) -> None:
        """Answer prompts of one group in one ``generate``."""
        inputs: list[_Inputs] = [job.prompt.inputs for job in jobs]
        plan = inputs[0].plan
        encoded = inputs[0].encoded if len(jobs) == 1 else self._encoded([part.dialogue for part in inputs])
        progress = Progress(
            jobs,
            [AnswerText(self.processor.tokenizer, job.prompt.sampling.stop) for job in jobs],
            self._ends,
            lambda: self._visual_per_layer(jobs, plan),
            prompt=encoded["input_ids"].shape[1],
        )
        with generation_options(jobs, progress) as options, reduced(self.model, plan):
            self.model.generate(**encoded.to(self.model.device, self.model.dtype), **options)

    def _visual_per_layer(self, jobs: Sequence[Job], plan: list[Stage]) -> Sequence[Sequence[int]]:
        """The visual tokens of each prompt in every layer."""
        if not plan or not any(job.prompt.visual for job in jobs):
            return [[job.prompt.visual] * self._layers for job in jobs]
        ledgers = last_outcome(self.model).record.ledgers
        return torch.stack([((ledger.visual > 0) & ledger.visible).sum(1) for ledger in ledgers], dim=1).tolist()

    def _encoded(self, dialogues: list[list[dict[str, Any]]]) -> Any:
        return self.processor.apply_chat_template(
            dialogues,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            processor_kwargs={"return_tensors": "pt", "padding": True},
        )

    def _message(self, turn: Turn) -> dict[str, Any]:
        """A turn with its pictures in front, or at the places that its text leaves them."""
        token = getattr(self.processor, "image_token", None)
        if token and token in turn.text:
            raise ValueError(f"a text holds {token}, which stands for a picture; take it out")
        texts = turn.text.split(IMAGE_PLACEHOLDER)
        if len(texts) == 1:
            texts = [""] * len(turn.images) + texts
        if len(texts) != len(turn.images) + 1:
            raise ValueError(f"a text has {len(texts) - 1} {IMAGE_PLACEHOLDER} for {len(turn.images)} images")
        content: list[dict[str, Any]] = []
        for number, text in enumerate(texts):
            content += [{"type": "text", "text": text}] if text else []
            content += [{"type": "image", "image": turn.images[number]}] if number < len(turn.images) else []
        return {"role": turn.role, "content": content}
