"""VLMEvalKit's view of a model under a plan.

At the end of its ``vlmeval/config.py``:

    from llava.harness.vlmevalkit import LlavaCondense
    supported_VLM["llava-1.5-7b-fastv-64"] = partial(
        LlavaCondense, model_path="liuhaotian/llava-v1.5-7b", reduction="fastv@2:64", costs="fastv-64.jsonl"
    )
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from llava.cli.settings import ModelSpec
from llava.constants import LETTER_ANSWER
from llava.pictures import load_image
from llava.reduction.plan import Spec

from .costs import CostTable
from .questions import Asked, Part, dialogue, sampling_from
from .respondent import open_respondent

try:
    from vlmeval.dataset import DATASET_TYPE  # pyright: ignore[reportMissingImports]
    from vlmeval.vlm.base import BaseModel  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as error:
    raise ImportError(
        f"VLMEvalKit is not here ({error}); clone github.com/open-compass/VLMEvalKit and run pip install -e . in it"
    ) from error

CHOICES = "MCQ"  # VLMEvalKit's name of the kind of data set whose questions have lettered options
FAILED = "Failed to obtain answer"  # how VLMEvalKit begins what stands in place of an answer


class LlavaCondense(BaseModel):
    """A LLaVA of this package, or a stock model of transformers, under a plan.

    model_path: folder or hub name. reduction: a plan; None takes LLAVA_REDUCTION, else the checkpoint's own. stock:
    transformers' own class (default: where the checkpoint is no LLaVA). costs: a file to which a JSON line is added for every
    answer. generation: ``max_new_tokens`` (default 1024), ``temperature``, ``top_p``. Raises what loading does.
    """

    INSTALL_REQ = False
    INTERLEAVE = True
    allowed_types = ("text", "image")

    def __init__(
        self,
        model_path: str,
        reduction: Spec = None,
        *,
        stock: bool | None = None,
        model_base: str | None = None,
        conv_mode: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        attn_implementation: str | None = None,
        costs: str | None = None,
        **generation: Any,
    ):
        super().__init__()
        self.sampling, self.most = sampling_from(generation)
        spec = ModelSpec(
            model_path, base=model_base, conv_mode=conv_mode, device=device, dtype=dtype, attn=attn_implementation
        )
        self.respondent = open_respondent(spec, reduction, stock=stock)
        self.costs = CostTable(costs)

    def use_custom_prompt(self, dataset: str) -> bool:
        """Whether the questions of a data set are worded here: those with lettered options, as LLaVA asks them."""
        return DATASET_TYPE(dataset) == CHOICES

    def build_prompt(self, line: Mapping[str, Any], dataset: str) -> list[dict[str, str]]:
        """A question with lettered options: hint, question, options, and the request for a letter."""
        pictures = self.dump_image(line, dataset)
        told = [value for name in ("hint", "question") if (value := _given(line, name)) is not None]
        options = [f"{letter}. {value}" for letter in ascii_uppercase if (value := _given(line, letter)) is not None]
        text = "\n".join(map(str, [*told, *options, LETTER_ANSWER]))
        return [*({"type": "image", "value": picture} for picture in pictures), {"type": "text", "value": text}]

    def generate_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
        """The answer to texts and pictures (paths) in their order; what cannot be asked gets VLMEvalKit's words for that."""
        return self._answer([("user", message)], dataset)

    def chat_inner(self, messages: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
        """The answer to a dialogue of messages with ``role`` and ``content``."""
        return self._answer([(message["role"], message["content"]) for message in messages], dataset)

    def _answer(self, told: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], dataset: str | None) -> str:
        turns = dialogue((role, [_part(part) for part in content]) for role, content in told)
        (answered,) = self.respondent.answers([Asked(turns, self.sampling, self.most, dataset or "")])
        if answered.cost is None:
            return f"{FAILED}: {answered.error}"
        self.costs.add(dataset or "", answered.cost)
        return answered.text


def _given(line: Mapping[str, Any], name: str) -> Any:
    """A field of a table's line; None where it is missing or not a number, which is how tables leave one out."""
    value = line[name] if name in line else None
    return value if value == value else None


def _part(part: Mapping[str, Any]) -> Part:
    """A text, or the picture at a path."""
    if part["type"] == "text":
        return part["value"]
    if part["type"] == "image":
        return load_image(part["value"])
    raise ValueError(f"a message holds a {part['type']}; only texts and pictures can be asked about")
