"""A model that answers a harness's questions in batches, each with what it cost."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from llava.cli.settings import ModelSpec
from llava.cost import model_cost
from llava.files import read_json
from llava.model.checkpoint import find_folder
from llava.model.loading.config import HF_MODEL_TYPES
from llava.model.loading.families import family_of
from llava.reduction import Cost, plan_from
from llava.reduction.cost import decoder_flops, kv_bytes
from llava.reduction.plan import Spec
from llava.serve.openai.chat import End, Job, Piece, Prompt, Question
from llava.serve.openai.llava_chat import LlavaChat
from llava.serve.openai.opening import own_chat, stock_chat
from llava.serve.openai.stock_chat import StockChat

from .costs import Columns, columns
from .questions import Asked

logger = logging.getLogger(__name__)

_UNREDUCED = "full"  # a stock model tells a prompt's cost only under a plan; this one changes nothing


@dataclass(frozen=True)
class Answered:
    """An answer, its cost, and its tokens: ``entered`` the first layer, ``new`` were written.

    error: why it could not be asked; then the text is empty and there is no cost.
    """

    text: str = ""
    cost: Columns | None = None
    entered: int = 0
    new: int = 0
    error: str | None = None


class Respondent:
    """A model and its plan, asked ``batch`` questions at once."""

    def __init__(self, chat: LlavaChat | StockChat, batch: int = 1):
        if batch < 1:
            raise ValueError(f"batch_size={batch} must be at least 1")
        self.chat, self.batch = chat, batch
        self._counts = True  # whether the host's FLOPs can be counted

    def answers(self, questions: Iterable[Asked]) -> Iterator[Answered]:
        """The answers in the order of the questions, which are drawn a batch at a time.

        A question that cannot be asked is answered by its error, and no other is affected. Raises ValueError for a plan
        that the model cannot run.
        """
        remaining = iter(questions)
        while asked := list(islice(remaining, self.batch)):
            yield from self._batch(asked)

    def _batch(self, asked: Sequence[Asked]) -> list[Answered]:
        answered: dict[int, Answered] = {}
        groups: dict[object, list[tuple[int, Prompt]]] = {}
        for number, one in enumerate(asked):
            try:
                prompt = self.chat.prepare(Question(one.turns, one.sampling), one.most)
            except ValueError as error:
                logger.warning("a question of %s is not asked: %s", one.task or "the harness", error)
                answered[number] = Answered(error=str(error))
                continue
            # A stock model counts only prompts with pictures, so those without are read separately.
            group = (
                number if prompt.group is None else prompt.group,
                bool(prompt.visual) or isinstance(self.chat, LlavaChat),
            )
            groups.setdefault(group, []).append((number, prompt))
        for prompts in groups.values():
            answered |= self._group(prompts)
        return [answered[number] for number in range(len(asked))]

    def _group(self, prompts: Sequence[tuple[int, Prompt]]) -> dict[int, Answered]:
        heard: list[list[Piece | End]] = [[] for _ in prompts]
        self.chat.generate([Job(prompt, events.append) for (_, prompt), events in zip(prompts, heard)])
        costs = self._costs([prompt for _, prompt in prompts])
        answered = {}
        for (number, _), events, cost in zip(prompts, heard, costs, strict=True):
            text = "".join(event.text for event in events if isinstance(event, Piece))
            (usage,) = [event.usage for event in events if isinstance(event, End)]
            entered = usage.prompt - usage.visual + usage.visual_per_layer[0]
            answered[number] = Answered(text, columns(usage, cost), entered, usage.completion)
        return answered

    def _costs(self, prompts: Sequence[Prompt]) -> Sequence[Cost | None]:
        """What the prompts just read have cost; None where the host's are not counted, which is logged once."""
        if isinstance(self.chat, StockChat) and not any(prompt.visual for prompt in prompts):
            return [self._of_words(prompt.positions) for prompt in prompts]
        if not self._counts:
            return [None] * len(prompts)
        try:
            return model_cost(self.chat.model)
        except ValueError as error:
            logger.warning("no FLOPs and no cache in the costs: %s", error)
            self._counts = False
            return [None] * len(prompts)

    def _of_words(self, rows: int) -> Cost:
        text, model = self.chat.model.config.get_text_config(), self.chat.model
        entered = [rows] * text.num_hidden_layers
        return Cost(
            visual_per_layer=[0] * text.num_hidden_layers,
            rows_per_layer=entered,
            tower_flops=0.0,
            projector_flops=0.0,
            selector_flops=0.0,
            llm_flops=decoder_flops(text, entered),
            kv_bytes=kv_bytes(text, entered, next(model.parameters()).element_size()),
        )


def open_respondent(
    spec: ModelSpec, reduction: Spec = None, *, stock: bool | None = None, batch: int = 1
) -> Respondent:
    """The model of a checkpoint under a plan.

    reduction: any spelling; None takes that of LLAVA_REDUCTION, else that of the checkpoint's config. stock: transformers'
    own class (default: where the checkpoint is no LLaVA that this package loads). Raises what loading and ``plan_from`` do.
    """
    if stock is None:
        stock = is_stock(spec)
    if not stock:
        knobs: dict[str, Any] = {} if reduction is None else {"reduction": reduction}
        return Respondent(own_chat(spec, **knobs), batch)
    chat = stock_chat(spec, reduction=reduction)
    chat.reduction = chat.reduction or plan_from(_UNREDUCED)
    return Respondent(chat, batch)


def is_stock(spec: ModelSpec) -> bool:
    """Whether a checkpoint is no LLaVA in a layout that this package loads. Raises FileNotFoundError for a missing folder."""
    folder = find_folder(spec.path, "pretrained")
    if spec.base is not None or not (folder / "config.json").is_file():
        return False
    kind = read_json(folder / "config.json").get("model_type")
    return kind not in HF_MODEL_TYPES and family_of(kind) is None
