"""The part of lmms-eval that a model meets, for machines without it: classes by its interface, and two of its tasks.

The tasks ask and score as lmms-eval 0.7 does from the same columns: MME's prompt loses " Please answer yes or no." and gains
LLaVA's request for a short answer; ScienceQA writes context, question and lettered choices.
"""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet
from PIL import Image

from llava.constants import LETTER_ANSWER, SHORT_ANSWER, YES_OR_NO

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")


@dataclass
class TokenCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass
class GenerationResult:
    text: str
    token_counts: TokenCounts | None = None


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None


@dataclass
class Instance:
    args: tuple
    metadata: dict = field(default_factory=dict)


class CacheHook:
    def __init__(self):
        self.seen: list[tuple] = []

    def add_partial(self, attribute: str, request: Any, result: Any) -> None:
        self.seen.append((attribute, request, result))


class Lmms:
    is_simple = True

    def __init__(self):
        self._rank, self._world_size, self.cache_hook, self.task_dict = 0, 1, CacheHook(), {}

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def world_size(self) -> int:
        return self._world_size

    def clean(self) -> None:
        """lmms-eval frees what is left."""


def modules(logged: list[tuple]) -> dict[str, ModuleType]:
    """What ``import lmms_eval...`` finds; ``log_metrics`` adds to ``logged``."""
    names = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.instance": {"TokenCounts": TokenCounts, "GenerationResult": GenerationResult},
        "lmms_eval.api.model": {"lmms": Lmms},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest},
        "lmms_eval.models.model_utils": {},
        "lmms_eval.models.model_utils.gen_metrics": {"log_metrics": lambda *values: logged.append(values)},
    }
    made = {}
    for name, members in names.items():
        made[name] = ModuleType(name)
        vars(made[name]).update(members)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(made[parent], last, made[name])
    return made


class ParquetTask:
    """A task over a parquet file: its requests in either interface, and the score of their answers."""

    name: str

    def __init__(self, file: Path):
        self.docs = pyarrow.parquet.read_table(file).to_pylist()
        for doc in self.docs:
            doc["image"] = Image.open(io.BytesIO(doc["image"]["bytes"]))

    def requests(self, simple: bool) -> list[Instance]:
        keywords = {"max_new_tokens": 16, "temperature": 0, "do_sample": False, "num_beams": 1, "until": ["\n\n"]}
        made = []
        for number, doc in enumerate(self.docs):
            asked = (keywords, self.pictures) if simple else (self.messages, keywords)
            made.append(Instance((self.text(doc), *asked, number, self.name, "test")))
        return made

    def pictures(self, doc: dict) -> list[Image.Image]:
        return [doc["image"].convert("RGB")]

    def messages(self, doc: dict) -> list[dict]:
        content = [{"type": "image", "url": picture} for picture in self.pictures(doc)]
        return [{"role": "user", "content": [*content, {"type": "text", "text": self.text(doc)}]}]

    def text(self, doc: dict) -> str:
        raise NotImplementedError


class Mme(ParquetTask):
    name = "mme"

    def text(self, doc: dict) -> str:
        return f"{doc['question'].strip().replace(f' {YES_OR_NO}', '')}\n{SHORT_ANSWER}"

    def score(self, answers: list[str]) -> dict[str, float]:
        right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        for doc, answer in zip(self.docs, answers, strict=True):
            said = answer.lower().strip().replace(".", "")
            right[doc["category"]][doc["question_id"]].append(said == doc["answer"].lower())
        totals = {"perception": 0.0, "cognition": 0.0}
        for category, pictures in right.items():
            scores = [50 * sum(pair) + 100 * all(pair) for pair in pictures.values()]
            totals["perception" if category in PERCEPTION else "cognition"] += sum(scores) / len(scores)
        return totals


class ScienceQaImage(ParquetTask):
    name = "scienceqa_img"

    def text(self, doc: dict) -> str:
        choices = "\n".join(f"{chr(65 + number)}. {choice}" for number, choice in enumerate(doc["choices"]))
        return f"Context: {doc['hint']}\n{doc['question']}\n{choices}\n{LETTER_ANSWER}"

    def score(self, answers: list[str]) -> dict[str, float]:
        right = [answer.strip() == chr(65 + doc["answer"]) for doc, answer in zip(self.docs, answers, strict=True)]
        return {"image_accuracy": sum(right) / len(right)}
