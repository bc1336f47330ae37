"""``lmms-eval --model llava_condense``: a LLaVA of this package or a stock model of transformers under a plan.

lmms-eval hands its simple interface a question's text and pictures, its chat interface messages; both ask the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from accelerate import Accelerator
from PIL import Image

from llava.cli.console import progress_bar, terminal
from llava.cli.settings import ModelSpec
from llava.files import excerpt
from llava.reduction import did_you_mean

from ..costs import CostTable
from ..questions import Asked, Part, dialogue, sampling_from
from ..respondent import Answered, Respondent, open_respondent

try:
    from lmms_eval.api import instance  # pyright: ignore[reportMissingImports]
    from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
    from lmms_eval.models.model_utils.gen_metrics import log_metrics  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as error:
    raise ImportError(f"lmms-eval is not here ({error}); pip install 'llava-condense[harness]'") from error

SETTINGS = (
    "pretrained", "reduction", "stock", "model_base", "conv_template", "device", "dtype", "attn_implementation",
    "load_4bit", "load_8bit", "batch_size", "costs",
)  # fmt: skip
IGNORED = ("max_batch_size",)  # lmms-eval gives it to every model
PADDING = "__padding_only__"  # marks a request that only keeps processes in step


class LlavaCondense(lmms):
    """A model for lmms-eval's simple interface.

    pretrained: folder or hub name. reduction: a plan; without one LLAVA_REDUCTION, then the checkpoint's config. stock:
    transformers' own class (default: where the checkpoint is no LLaVA). conv_template: prompt template. costs: a file to
    which a JSON line is added for every answer. The others as in ``ModelSpec``. Raises ValueError for an unknown setting.
    """

    is_simple = True

    def __init__(self, pretrained: str | None = None, *, batch_size: int | str = 1, **settings: Any):
        super().__init__()
        for name in settings:
            if name not in (*SETTINGS, *IGNORED):
                raise ValueError(
                    f"model_args {name!r} is unknown{did_you_mean(name, SETTINGS)}; there are {', '.join(SETTINGS)}. A plan with"
                    ' options stands in quotes, reduction="fastv@2:64,heads=max_head", or in a YAML file'
                )
        if pretrained is None:
            raise ValueError("model_args lacks pretrained=, the folder or hub name of a model")
        if not str(batch_size).isdecimal():
            raise ValueError(f"batch_size={batch_size!r} must be a whole number")
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        given = settings.get("device") if self.world_size == 1 else None
        self.device = given or str(self.accelerator.device)
        self.costs = CostTable(settings.get("costs"))
        reduction = settings.get("reduction")
        self.respondent: Respondent | None = open_respondent(
            _spec(pretrained, self.device, settings),
            reduction.strip("\"'") if isinstance(reduction, str) else reduction,
            stock=settings.get("stock"),
            batch=int(batch_size),
        )

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """An answer to every request; one that cannot be asked gets an empty answer, and a warning says why.

        Raises ValueError for a task of videos or sounds, and for a plan that the model cannot run.
        """
        if self.respondent is None:
            raise ValueError("the model was given back by clean(); make another")
        results, new, start = [], 0, time.perf_counter()
        with progress_bar(terminal(), shown=self.rank == 0) as bar:
            answers = self.respondent.answers(map(self._asked, requests))
            for request, answered in zip(requests, bar.track(answers, len(requests), description="llava_condense")):
                if answered.cost is not None and not (request.metadata or {}).get(PADDING):
                    self.costs.add(request.args[-2], answered.cost)
                new += answered.new
                results.append(_result(answered))
                self.cache_hook.add_partial("generate_until", request.args[:2], answered.text)
        seconds = time.perf_counter() - start
        log_metrics(seconds, new, new / seconds, self.costs.flat())
        return results

    def _asked(self, request: Any) -> Asked:
        text, keywords, doc_to_visual, doc_id, task, split = request.args
        visuals = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        for visual in visuals:
            _check_picture(visual, task)
        return Asked(dialogue([("user", [*visuals, text])]), *sampling_from(keywords), task)

    def loglikelihood(self, requests: Sequence[Any]) -> NoReturn:
        """Raises NotImplementedError."""
        raise NotImplementedError(
            "llava_condense writes answers and scores no given ones; choose a task of output_type generate_until"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> NoReturn:
        """Raises NotImplementedError."""
        raise NotImplementedError(
            "llava_condense answers single questions; choose a task of output_type generate_until"
        )

    def clean(self) -> None:
        """Gives the model's memory back before answers are judged."""
        self.respondent = None
        super().clean()


class LlavaCondenseChat(LlavaCondense):
    """The same for lmms-eval's chat interface."""

    is_simple = False

    def _asked(self, request: Any) -> Asked:
        _, doc_to_messages, keywords, doc_id, task, split = request.args
        messages = doc_to_messages(self.task_dict[task][split][doc_id])
        told = [(message["role"], [_part(part, task) for part in message["content"]]) for message in messages]
        return Asked(dialogue(told), *sampling_from(keywords), task)


def _spec(pretrained: str, device: str, settings: Mapping[str, Any]) -> ModelSpec:
    given = {name: bool(settings.get(name)) for name in ("load_4bit", "load_8bit")}
    if all(given.values()):
        raise ValueError("load_4bit and load_8bit are both given; choose one of them")
    return ModelSpec(
        pretrained,
        base=settings.get("model_base"),
        conv_mode=settings.get("conv_template"),
        device=device,
        dtype=settings.get("dtype"),
        bits=4 if given["load_4bit"] else 8 if given["load_8bit"] else None,
        attn=settings.get("attn_implementation"),
    )


def _part(part: Mapping[str, Any], task: str) -> Part:
    """A text or a picture of a message's content."""
    if part["type"] == "text":
        return part["text"]
    return _check_picture(part["url"] if part["type"] == "image" else part["type"], task)


def _check_picture(visual: Any, task: str) -> Image.Image:
    if not isinstance(visual, Image.Image):
        raise ValueError(
            f"task {task!r} asks about {excerpt(visual)}; llava_condense reads pictures, no videos and no sounds"
        )
    return visual


def _result(answered: Answered) -> Any:
    """An answer as lmms-eval takes it; its older releases take the text alone."""
    if not hasattr(instance, "GenerationResult"):
        return answered.text
    counts = instance.TokenCounts(input_tokens=answered.entered, output_tokens=answered.new)
    return instance.GenerationResult(answered.text, counts)
