"""Whether the parts of a built checkpoint work: measured on the checkpoint itself, each part by what it does alone.

The language model continues sentences and finds them likelier than their words in another order. The tower tells cut-out
things apart: a picture is named by its nearest neighbour among others of the same things in another place, size and
light.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from llava.conversation import conversation_mode, get_conversation
from llava.mm_utils import process_images

from .pictures import Thing

PROMPTS = (
    "What is the capital of France?",
    "What colour is the sky on a clear day?",
    "Name three animals that live in the sea.",
    "What do you use an umbrella for?",
)
SENTENCES = (
    "The cat sat on the mat and looked out of the window.",
    "She put the kettle on the stove and made a cup of tea.",
    "Every morning he walks his dog in the park near the river.",
    "The train to the city leaves at nine and arrives before noon.",
    "When it rains, the children play inside the house.",
    "A bird built its nest in the old tree behind the school.",
    "The baker sells fresh bread, cakes and cookies every day.",
    "He forgot his keys, so he had to wait for his wife.",
    "Plants need water, light and air to grow well.",
    "The museum was closed, but we could still visit the garden.",
    "My grandmother told me a long story about the war.",
    "The doctor said that he should drink more water and rest.",
)
ORDERS = 3  # shuffles of each sentence
NEW_TOKENS = 24
COMPARED = 96  # things to tell apart, spread evenly over all of them
BIG, SMALL = 0.8, 0.5  # share of a picture's side, in the known pictures and in those to be named


@torch.inference_mode()
def continuations(tokenizer: Any, model: Any, prompts: Sequence[str] = PROMPTS) -> list[tuple[str, str]]:
    """Each prompt with the greedy answer to it, without a picture."""
    answers = []
    for prompt in prompts:
        dialogue = get_conversation(conversation_mode("", model.config))
        dialogue.append_message(dialogue.roles[0], prompt)
        dialogue.append_message(dialogue.roles[1], None)
        ids = tokenizer(dialogue.get_prompt(), return_tensors="pt").input_ids.to(model.device)
        written = model.generate(ids, do_sample=False, max_new_tokens=NEW_TOKENS)
        answers.append((prompt, tokenizer.decode(written[0], skip_special_tokens=True).strip()))
    return answers


@torch.inference_mode()
def sentence_figures(
    tokenizer: Any, model: Any, sentences: Sequence[str] = SENTENCES, seed: int = 0
) -> dict[str, float]:
    """``sensible``, ``shuffled``: perplexities per token; ``preferred``: how often the sentence is likelier, per token.

    A sentence is compared with ``ORDERS`` orders of its own words. One half is chance.
    """
    draw = random.Random(seed)
    costs: dict[str, list[float]] = {"sensible": [], "shuffled": []}
    preferred = 0
    for sentence in sentences:
        cost = _cost(tokenizer, model, sentence)
        costs["sensible"].append(cost)
        for _ in range(ORDERS):
            words = sentence.split()
            while words == sentence.split():
                draw.shuffle(words)
            costs["shuffled"].append(_cost(tokenizer, model, " ".join(words)))
            preferred += cost < costs["shuffled"][-1]
    figures = {name: math.exp(sum(values) / len(values)) for name, values in costs.items()}
    return figures | {"preferred": preferred / len(costs["shuffled"])}


def _cost(tokenizer: Any, model: Any, text: str) -> float:
    """Mean negative log-likelihood of a text's tokens after the first."""
    ids = tokenizer(text, return_tensors="pt").input_ids.to(model.device)
    logits = model(input_ids=ids).logits[0, :-1].float()
    return F.cross_entropy(logits, ids[0, 1:]).item()


@torch.inference_mode()
def naming_figures(model: Any, image_processor: Any, things: Sequence[Thing], seed: int = 0) -> dict[str, float]:
    """What the tower's features tell about cut-outs, without any training.

    Every thing has a large known picture, and a small one to be named: elsewhere, mirrored and on another ground; the
    feature of either is the mean over the patches that the thing covers. ``things``: how many; ``named``: share of those whose
    nearest known picture is of the same thing; ``named_by_chance``. ``kind``: share of those whose nearest *other* thing is of
    the same kind; ``kind_by_chance``: the same if that other thing were drawn at random.
    """
    draw = random.Random(seed)
    things = list(things) if len(things) <= COMPARED else [things[i * len(things) // COMPARED] for i in range(COMPARED)]
    known, asked = (
        torch.stack([_feature(model, image_processor, *_view(thing, share, mirrored, draw)) for thing in things])
        for share, mirrored in ((BIG, False), (SMALL, True))
    )
    alike = F.normalize(asked - known.mean(0), dim=1) @ F.normalize(known - known.mean(0), dim=1).T
    own = torch.arange(len(things))
    others = alike.clone()
    others.fill_diagonal_(-2)
    kinds = [thing.kind for thing in things]
    same = sum(kinds[nearest] == kind for nearest, kind in zip(others.argmax(1).tolist(), kinds, strict=True))
    count = len(things)
    pairs = sum(number * (number - 1) for number in Counter(kinds).values())
    return {
        "things": count,
        "named": (alike.argmax(1).cpu() == own).float().mean().item(),
        "named_by_chance": 1 / count,
        "kind": same / count,
        "kind_by_chance": pairs / (count * (count - 1)),
    }


def _view(thing: Thing, share: float, mirrored: bool, draw: random.Random) -> tuple[Image.Image, tuple[float, ...]]:
    """A picture of a thing somewhere on a plain ground, and its box (left, top, right, bottom) as shares of the side."""
    with Image.open(thing.file) as opened:
        cut = opened.convert("RGBA")
    cut = cut.crop(cut.getchannel("A").getbbox())
    side = 336
    cut = ImageOps.contain(ImageOps.mirror(cut) if mirrored else cut, (round(side * share), round(side * share)))
    scene = Image.new("RGB", (side, side), tuple(draw.randrange(60, 220) for _ in range(3)))
    left, top = draw.randint(0, side - cut.width), draw.randint(0, side - cut.height)
    scene.paste(cut, (left, top), cut)
    return scene, (left / side, top / side, (left + cut.width) / side, (top + cut.height) / side)


def _feature(model: Any, image_processor: Any, picture: Image.Image, box: tuple[float, ...]) -> Tensor:
    """The mean feature (D,) of the patches whose middle lies in a box, or of the one at its own middle."""
    tower = model.get_vision_tower()
    pixels = process_images([picture], image_processor, model.config)
    features = tower(torch.as_tensor(pixels).to(model.device, tower.dtype))[0].float()
    side = tower.num_patches_per_side
    middle = (torch.arange(side) + 0.5) / side
    left, top, right, bottom = box
    inside = ((middle > top) & (middle < bottom))[:, None] & ((middle > left) & (middle < right))[None, :]
    if not inside.any():
        inside[min(side - 1, int((top + bottom) / 2 * side)), min(side - 1, int((left + right) / 2 * side))] = True
    return features[inside.flatten().to(features.device)].mean(0)
