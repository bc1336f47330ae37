"""Training batches of the language model: many questions about one picture in one sequence.

``prompt | patches | question 1 | question 2 | ...``: each question sees the prompt, the patches and itself, at the positions
it would have alone, so a step of 8 pictures trains some 200 question-answer pairs for little more than the price of the
pictures. Where a phase asks for fewer patches, those that show something and a random share of the background are fed, at
their true positions, which is exact for the questions and a third of the cost.
"""

from __future__ import annotations

import json
import logging
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from torch import Tensor, nn

from llava.conversation import conv_vicuna_v1

from . import world
from .lessons import FORMS, Phase, draw_questions
from .questions import SIDES
from .tower import SELECT_LAYER, pixels

logger = logging.getLogger(__name__)

SYSTEM = conv_vicuna_v1.system
VISUAL = world.GRID**2


@dataclass(frozen=True)
class Pictures:
    """Pictures by index: their scenes (from ``seed``), tower features (P, 576, D) and patch owners (P, 576)."""

    seed: int
    features: np.ndarray
    owners: np.ndarray


def checksum(*modules: nn.Module) -> str:
    """Eight hexadecimal digits that weights of other values, as float16, would most likely not have."""
    value = 0
    for module in modules:
        for _, weight in sorted(module.state_dict().items()):
            value = zlib.crc32(weight.detach().half().contiguous().numpy().tobytes(), value)
    return f"{value:08x}"


@torch.no_grad()
def cache_pictures(tower, folder: Path, count: int, seed: int, batch: int = 32) -> Pictures:
    """Features of ``count`` pictures from the layer LLaVA reads, as float16 on disk; resumes where it was stopped.

    Features of another tower that are still in the folder are made again.
    """
    mark, eyes = folder / f"pictures-{seed}-{count}.json", checksum(tower)
    made = json.loads(mark.read_text()) if mark.exists() else {}
    done = made["done"] if made.get("tower") == eyes else 0
    features, owners = (
        np.lib.format.open_memmap(
            folder / f"{name}-{seed}-{count}.npy", "r+" if done else "w+", kind, (count, VISUAL, *width)
        )
        for name, kind, width in (("features", np.float16, (tower.config.hidden_size,)), ("owners", np.int8, ()))
    )
    began = time.monotonic()
    for start in range(done, count, batch):
        scenes = [world.make_scene(seed, number) for number in range(start, min(start + batch, count))]
        images = torch.from_numpy(np.stack([np.array(world.render(scene)) for scene in scenes]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = tower(pixels(images), output_hidden_states=True)
        features[start : start + len(scenes)] = out.hidden_states[SELECT_LAYER][:, 1:].float().numpy()
        owners[start : start + len(scenes)] = [world.patch_owner(scene).flatten() for scene in scenes]
        if start // batch % 25 == 24 or start + batch >= count:
            features.flush()
            owners.flush()
            mark.write_text(json.dumps({"tower": eyes, "done": start + len(scenes)}))
            logger.info("features of %d / %d pictures, %.0fs", start + len(scenes), count, time.monotonic() - began)
    return Pictures(seed, features, owners)


class Packer:
    """Turns pictures and questions into one packed batch; everything it draws depends on ``(seed, step)`` alone."""

    def __init__(self, tokenizer: sentencepiece.SentencePieceProcessor, seed: int):
        self.tokenizer, self.seed = tokenizer, seed
        self.prompt = [tokenizer.bos_id(), *tokenizer.encode(f"{SYSTEM} USER: ")]
        self.kind_words, self.colour_words, self.side_words = (
            torch.tensor([tokenizer.piece_to_id(f"▁{word}") for word in words])
            for words in (world.KINDS, world.COLOURS, SIDES)
        )
        self.letters = {tokenizer.piece_to_id(one): tokenizer.piece_to_id(f"▁{one}") for one in "ABCDE"}
        self.dot = tokenizer.piece_to_id(".")
        if (torch.cat([self.kind_words, self.colour_words, self.side_words]) == tokenizer.unk_id()).any():
            raise ValueError("a shape, colour or side is not one piece of the tokenizer; train it with more pieces")

    def batch(self, pictures: Pictures, step: int, phase: Phase) -> dict[str, Tensor]:
        """One training batch: shapes (B, S) for ids, positions and targets, (B, 1, S, S) for the mask."""
        rng = np.random.default_rng((self.seed, step))
        numbers = rng.choice(len(pictures.features), size=phase.pictures, replace=False)
        return collate([self._picture(pictures, int(number), rng, phase) for number in np.sort(numbers)])

    def asked(self, question: str) -> list[int]:
        """The ids of vicuna_v1's template from the picture's placeholder to where the answer begins."""
        return self.tokenizer.encode(f"\n{question} ASSISTANT:")

    def replied(self, answer: str) -> list[int]:
        """The ids of an answer and of the template's end."""
        return [*self.tokenizer.encode(answer), self.tokenizer.eos_id()]

    def options(self, ids: list[int]) -> list[int]:
        """At the first piece of every lettered choice, the id that answers with its letter; elsewhere -100."""
        before = zip([0, 0, *ids], [0, *ids])
        return [self.letters.get(letter, -100) if dot == self.dot else -100 for (letter, dot), _ in zip(before, ids)]

    def _picture(self, pictures: Pictures, number: int, rng: np.random.Generator, phase: Phase) -> dict:
        scene = world.make_scene(pictures.seed, number)
        owner = pictures.owners[number]
        chosen = np.arange(VISUAL)
        if phase.patches < VISUAL:
            order = rng.permutation(VISUAL)
            chosen = np.sort(order[np.argsort(owner[order] < 0, kind="stable")][: phase.patches])
        kinds = np.array([world.KINDS.index(item.kind) for item in scene.items] + [-1])
        colours = np.array([list(world.COLOURS).index(item.colour) for item in scene.items] + [-1])
        texts, targets, facts, options, choices, forms, groups, positions = [], [], [], [], [], [], [], []
        for group, question in enumerate(draw_questions(scene, rng, phase), start=1):
            asked, replied = self.asked(question.text), self.replied(question.answer)
            fact = -100 if question.fact is None else self.tokenizer.encode(question.fact)[0]
            ids = asked + replied[:-1]
            texts += ids
            targets += [-100] * (len(asked) - 1) + replied
            facts += [-100] * (len(asked) - 1) + [fact] + [-100] * (len(replied) - 1)
            lettered = self.options(ids)
            right = len(texts) - len(ids) + lettered.index(replied[0]) if replied[0] in lettered else -1
            options += lettered
            choices += [-1] * (len(asked) - 1) + [right] + [-1] * (len(replied) - 1)
            forms += [-1] * (len(asked) - 1) + [FORMS.index(question.form)] + [-1] * (len(replied) - 1)
            groups += [group] * len(ids)
            positions += [len(self.prompt) + VISUAL + place for place in range(len(ids))]
        return {
            "prompt": torch.tensor(self.prompt),
            "features": torch.from_numpy(pictures.features[number][chosen].astype(np.float32)),
            "places": torch.from_numpy(chosen) + len(self.prompt),
            "kinds": torch.from_numpy(kinds[owner[chosen]]),
            "colours": torch.from_numpy(colours[owner[chosen]]),
            "columns": torch.from_numpy(chosen % world.GRID * 2 // world.GRID),
            "rows": torch.from_numpy(chosen // world.GRID * 2 // world.GRID),
            "texts": torch.tensor(texts),
            "targets": torch.tensor(targets),
            "facts": torch.tensor(facts),
            "options": torch.tensor(options),
            "choices": torch.tensor(choices),
            "forms": torch.tensor(forms),
            "groups": torch.tensor(groups),
            "positions": torch.tensor(positions),
        }


def collate(rows: list[dict]) -> dict[str, Tensor]:
    """Pad the questions of every picture to the longest and lay out positions and the block mask."""

    def padded(name: str, value: int) -> Tensor:
        return nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True, padding_value=value)

    stacked = {
        name: torch.stack([row[name] for row in rows])
        for name in ("prompt", "features", "places", "kinds", "colours", "columns", "rows")
    }
    texts, groups = padded("texts", 0), padded("groups", -1)
    batch, shared = len(rows), stacked["prompt"].shape[1] + stacked["places"].shape[1]
    positions = torch.cat(
        [torch.arange(stacked["prompt"].shape[1]).expand(batch, -1), stacked["places"], padded("positions", 0)], dim=1
    )
    group = torch.cat([torch.zeros(batch, shared, dtype=torch.long), groups], dim=1)
    causal = torch.ones(group.shape[1], group.shape[1], dtype=torch.bool).tril()
    visible = (group[:, None, :] == 0) | (group[:, None, :] == group[:, :, None])
    return {
        **stacked,
        "texts": texts,
        "targets": padded("targets", -100),
        "facts": padded("facts", -100),
        "options": padded("options", -100),
        "choices": padded("choices", -1),
        "forms": padded("forms", -1),
        "positions": positions,
        "mask": (causal & visible)[:, None],
    }
