"""Training of the embedded model's language side: tokenizer, projector and Llama, on features of the frozen tower.

Many questions share one picture in one sequence, ``prompt | patches | question 1 | question 2 | ...``: each question sees
the prompt, the patches and itself, at the positions it would have alone, so a step of 8 pictures trains some 200
question-answer pairs for little more than the price of the pictures. Until the last phase only the patches that show something and a
random share of the background are fed, at their true positions, which is exact for the questions and a third of the cost.

A small auxiliary loss lets every projected patch name its own shape, colour and side through the (tied) word embeddings, which
is where words and patches meet. The first phase is LLaVA's own first stage, captions: after ``star`` the next word is its
colour, which one look at the star's patches answers; asked questions from the start, the model stays at which attributes
the picture holds and does not bind them. A yes/no question is learned as an open one and a comparison: what the model
says after its first layers is taught the fact in question, what it says at the end, the answer. Patches that are named
like a fact draw attention away from the word in the question that must be compared with it, and such subtasks (colour,
side) stay at chance; so for a share of the steps the patches are gone from the later layers.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import sentencepiece
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from llava.constants import LETTER_ANSWER, SHORT_ANSWER

from . import world
from .questions import CATEGORIES, SIDES, caption, conversation, multiple_choice, yes_no_fact
from .tower import SELECT_LAYER, pixels

logger = logging.getLogger(__name__)

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
WIDTH, HEADS, INTERMEDIATE, LAYERS = 256, 4, 688, 12
ALIKE = 0.8  # of what queries and keys start from; equal words then score about 5 before the softmax
COPIED = 0.6  # of what values and outputs start from
COUNTING = ("count", "numerical_calculation")  # the subtasks that are learned last
THINKING = 4  # layers after which the fact that a question is about is read out
VISUAL = world.GRID**2


@dataclass(frozen=True)
class Phase:
    """One part of the curriculum: how deep, how many patches, which questions, until which step at which rate."""

    until: int
    layers: int
    patches: int
    rate: float
    pictures: int
    questions: int  # a picture
    caption_share: float
    open_share: float
    yes_no_share: float  # what is left is multiple choice
    suffix_share: float
    shallow_share: float = 0.0  # of the steps: the layers after THINKING see no patches
    counting_share: float = 0.0  # of the yes/no questions, beyond their even part: how many there are, and sums
    below: int = 0  # how many of the added layers come before the others
    horizon: int | None = None  # the step at which the falling rate would reach zero, where that is not ``until``


def train_tokenizer(folder: Path, pieces: int = 900, pictures: int = 4000) -> sentencepiece.SentencePieceProcessor:
    """A BPE model with byte fallback on the world's text and the vicuna prompt, with Llama's special ids."""
    file = folder / "tokenizer.model"
    if not file.exists():
        lines = [f"{SYSTEM} USER:"] * 50
        for number in range(pictures):
            scene, rng = world.make_scene(11, number), np.random.default_rng(number)
            for question in draw_questions(scene, rng, Phase(0, 0, 0, 0, 0, 6, 0.2, 0.3, 0.3, 0.5)):
                lines.append(f"\n{question.text} ASSISTANT: {question.answer}")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_prefix=str(file.with_suffix("")),
            vocab_size=pieces,
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            hard_vocab_limit=False,
            character_coverage=1.0,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            minloglevel=2,
        )
        file.with_suffix(".vocab").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(file))


def build_language_model(vocabulary: int, layers: int = LAYERS) -> LlamaForCausalLM:
    """A small Llama: heads of width 64, a slow rotary base, tied embeddings, attention that begins by copying what is alike.

    Keys start as the queries do, so that a word first looks at the patches that are named like it, and a fact at the word
    of the question that it equals; outputs start as the transposed values, so that what is looked at is copied (in the
    spirit of mimetic initialisation, Trockman and Kolter 2023, arXiv:2305.09828). In a trial of 160 steps 0.57 of the
    open answers were right with it and 0.45 without.
    """
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=INTERMEDIATE,
            num_hidden_layers=layers,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=4096,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    with torch.no_grad():
        for layer in _layers(model):
            attention = layer.self_attn
            attention.k_proj.weight.copy_(attention.q_proj.weight.normal_(std=ALIKE / WIDTH**0.5))
            attention.o_proj.weight.copy_(attention.v_proj.weight.normal_(std=COPIED / WIDTH**0.5).T)
    return model


def _layers(model: LlamaForCausalLM) -> list[LlamaDecoderLayer]:
    return cast(list[LlamaDecoderLayer], list(model.model.layers))  # a ModuleList does not say of which kind


def deepen(model: LlamaForCausalLM, layers: int, below: int = 0) -> LlamaForCausalLM:
    """The same function with more layers, ``below`` of them before the old, whose output projections are zero."""
    old = len(model.model.layers)
    if old == layers:
        return model
    deep = build_language_model(model.config.vocab_size, layers)
    moved = {
        re.sub(r"(?<=model\.layers\.)\d+", lambda number: str(int(number[0]) + below), name): weight
        for name, weight in model.state_dict().items()
    }
    deep.load_state_dict(moved, strict=False)
    with torch.no_grad():
        for layer in [*_layers(deep)[:below], *_layers(deep)[below + old :]]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return deep


def build_projector(width_in: int) -> nn.Sequential:
    """LLaVA-1.5's ``mlp2x_gelu``."""
    return nn.Sequential(nn.Linear(width_in, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))


@dataclass(frozen=True)
class Pictures:
    """Pictures by index: their scenes (from ``seed``), tower features (P, 576, D) and patch owners (P, 576)."""

    seed: int
    features: np.ndarray
    owners: np.ndarray


@torch.no_grad()
def cache_pictures(tower, folder: Path, count: int, seed: int, batch: int = 32) -> Pictures:
    """Features of ``count`` pictures from the layer LLaVA reads, as float16 on disk; resumes where it was stopped."""
    mark = folder / f"pictures-{seed}-{count}.done"
    done = int(mark.read_text()) if mark.exists() else 0
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
            mark.write_text(str(start + len(scenes)))
            logger.info("features of %d / %d pictures, %.0fs", start + len(scenes), count, time.monotonic() - began)
    return Pictures(seed, features, owners)


@dataclass(frozen=True)
class Question:
    """What is asked, the answer, and the one word that the answer rests on (None where there is none)."""

    text: str
    answer: str
    fact: str | None


def draw_questions(scene: world.Scene, rng: np.random.Generator, phase: Phase) -> list[Question]:
    """The questions of one picture, drawn by the phase's shares."""
    drawn: list[Question] = []
    while len(drawn) < phase.questions:
        kind, suffix = rng.random(), f"\n{SHORT_ANSWER}" if rng.random() < phase.suffix_share else ""
        if kind < phase.caption_share:
            drawn.append(Question(*caption(scene, rng), fact=None))
        elif (kind := kind - phase.caption_share) < phase.open_share:
            drawn += [Question(text + suffix, answer, answer) for text, answer in conversation(scene, rng, 2)]
        elif kind < phase.open_share + phase.yes_no_share:
            counting = phase.counting_share and rng.random() < phase.counting_share
            category = str(rng.choice(COUNTING if counting else CATEGORIES))
            if (asked := yes_no_fact(category, scene, rng)) is not None:
                yes, no, fact = asked
                # whether something is there: the negative is about something else, of which there is none
                other = "zero" if category in ("existence", "OCR") else fact
                drawn += [Question(yes + suffix, "Yes", fact), Question(no + suffix, "No", other)]
        else:
            asked = multiple_choice(scene, rng)
            choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCDE", asked["choices"]))
            text = f"Context: N/A\n{asked['question']}\n{choices}\n{LETTER_ANSWER}"
            drawn.append(Question(text, "ABCDE"[asked["answer"]], asked["choices"][asked["answer"]]))
    return drawn[: phase.questions]


class Packer:
    """Turns pictures and questions into one packed batch; everything it draws depends on ``(seed, step)`` alone."""

    def __init__(self, tokenizer: sentencepiece.SentencePieceProcessor, seed: int):
        self.tokenizer, self.seed = tokenizer, seed
        self.prompt = [tokenizer.bos_id(), *tokenizer.encode(f"{SYSTEM} USER: ")]
        self.kind_words, self.colour_words, self.side_words = (
            torch.tensor([tokenizer.piece_to_id(f"▁{word}") for word in words])
            for words in (world.KINDS, world.COLOURS, SIDES)
        )
        if (torch.cat([self.kind_words, self.colour_words, self.side_words]) == tokenizer.unk_id()).any():
            raise ValueError("a shape, colour or side is not one piece of the tokenizer; train it with more pieces")

    def batch(self, pictures: Pictures, step: int, phase: Phase) -> dict[str, Tensor]:
        """One training batch: shapes (B, S) for ids, positions and targets, (B, 1, S, S) for the mask."""
        rng = np.random.default_rng((self.seed, step))
        numbers = rng.choice(len(pictures.features), size=phase.pictures, replace=False)
        return collate([self._picture(pictures, int(number), rng, phase) for number in np.sort(numbers)])

    def _picture(self, pictures: Pictures, number: int, rng: np.random.Generator, phase: Phase) -> dict:
        scene = world.make_scene(pictures.seed, number)
        owner = pictures.owners[number]
        chosen = np.arange(VISUAL)
        if phase.patches < VISUAL:
            order = rng.permutation(VISUAL)
            chosen = np.sort(order[np.argsort(owner[order] < 0, kind="stable")][: phase.patches])
        kinds = np.array([world.KINDS.index(item.kind) for item in scene.items] + [-1])
        colours = np.array([list(world.COLOURS).index(item.colour) for item in scene.items] + [-1])
        texts, targets, facts, groups, positions = [], [], [], [], []
        for group, question in enumerate(draw_questions(scene, rng, phase), start=1):
            asked = self.tokenizer.encode(f"\n{question.text} ASSISTANT:")
            replied = [*self.tokenizer.encode(question.answer), self.tokenizer.eos_id()]
            fact = -100 if question.fact is None else self.tokenizer.encode(question.fact)[0]
            ids = asked + replied[:-1]
            texts += ids
            targets += [-100] * (len(asked) - 1) + replied
            facts += [-100] * (len(asked) - 1) + [fact] + [-100] * (len(replied) - 1)
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
        "positions": positions,
        "mask": (causal & visible)[:, None],
    }


def forward(
    model: LlamaForCausalLM, inputs: Tensor, data: dict[str, Tensor], shallow: bool, below: int
) -> tuple[Tensor | None, Tensor]:
    """Hidden states after the layers ``below`` and ``THINKING`` more (None if there are no more) and at the end.

    ``shallow``: from there on the patches are gone, so that what was found must be compared among the words.
    """
    rope, mask, hidden, thought = model.model.rotary_emb(inputs, data["positions"]), data["mask"], inputs, None
    for number, layer in enumerate(model.model.layers):
        if number == below + THINKING:
            thought = hidden
            if shallow:
                start = data["prompt"].shape[1]
                stop = start + data["places"].shape[1]
                hidden, *rope = (torch.cat([part[:, :start], part[:, stop:]], dim=1) for part in (hidden, *rope))
                words = [*range(start), *range(stop, mask.shape[-1])]
                mask = mask[:, :, words][..., words]
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rope)
    return thought, model.model.norm(hidden)


def losses(
    model: LlamaForCausalLM,
    projector: nn.Module,
    packer: Packer,
    data: dict[str, Tensor],
    shallow: bool = False,
    below: int = 0,
) -> dict[str, Tensor]:
    """The losses by name, and the share of answers whose first word is right."""
    embed = model.model.embed_tokens
    visual = projector(data["features"])
    inputs = torch.cat([embed(data["prompt"]), visual, embed(data["texts"])], dim=1)
    thought, hidden = forward(model, inputs, data, shallow, below)
    length = data["texts"].shape[1]

    def read(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        asked = targets != -100
        return model.lm_head(hidden[:, -length:][asked]).float(), targets[asked]

    logits, target = read(hidden, data["targets"])
    parts = {"answer": F.cross_entropy(logits, target)}
    asked, answered = data["facts"][data["targets"] != -100] != -100, target != packer.tokenizer.eos_id()
    parts["right"] = (logits.argmax(-1) == target)[asked if asked.any() else answered].float().mean()
    if thought is not None:
        early, fact = read(model.model.norm(thought), data["facts"])
        parts["fact"] = F.cross_entropy(early, fact)
    direction = F.rms_norm(visual.float(), visual.shape[-1:])
    names = (
        (packer.kind_words, data["kinds"]),
        (packer.colour_words, data["colours"]),
        (packer.side_words[:2], data["columns"]),
        (packer.side_words[2:], data["rows"]),
    )
    naming = [
        F.cross_entropy(direction[labels >= 0] @ embed.weight[words].T, labels[labels >= 0]) for words, labels in names
    ]
    parts["naming"] = sum(naming, torch.zeros(()))
    return parts


WEIGHTS = {"answer": 1.0, "fact": 0.5, "naming": 0.1}


def train_language_model(
    pictures: Pictures,
    tokenizer: sentencepiece.SentencePieceProcessor,
    folder: Path,
    phases: list[Phase],
    seed: int = 5,
    stop_after: int | None = None,
) -> tuple[LlamaForCausalLM, nn.Module]:
    """Follow the curriculum, resuming from ``folder/language.pt``, which is written every 100 steps.

    ``stop_after`` ends the run at that step, as a kill would, with its state written.
    """
    torch.manual_seed(seed)
    state_file = folder / "language.pt"
    state = torch.load(state_file, weights_only=True) if state_file.exists() else None
    model = build_language_model(tokenizer.vocab_size(), state["layers"] if state else phases[0].layers)
    projector = build_projector(pictures.features.shape[-1])
    packer, done = Packer(tokenizer, seed), 0
    if state:
        model.load_state_dict(state["model"])
        projector.load_state_dict(state["projector"])
        done = state["done"]
    for number, phase in enumerate(phases):
        start = phases[number - 1].until if number else 0
        if done >= phase.until:
            continue
        torch.manual_seed(seed + number)  # of the new layers, in an unbroken run and in a resumed one
        model = deepen(model, phase.layers, phase.below)
        parameters = [*model.parameters(), *projector.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=phase.rate, betas=(0.9, 0.98), weight_decay=0.01)
        if state and state["phase"] == number:
            optimiser.load_state_dict(state["optimiser"])
        began, seen = time.monotonic(), []
        for step in range(max(done, start), phase.until):
            passed = (step - start) / ((phase.horizon or phase.until) - start)
            for group in optimiser.param_groups:
                group["lr"] = phase.rate * min((step - start + 1) / 60, 1.02 - passed)
            data = packer.batch(pictures, step, phase)
            shallow = np.random.default_rng((seed, step, 1)).random() < phase.shallow_share
            with torch.autocast("cpu", dtype=torch.bfloat16):
                parts = losses(model, projector, packer, data, shallow, phase.below)
            optimiser.zero_grad()
            sum((WEIGHTS[name] * loss for name, loss in parts.items() if name in WEIGHTS), torch.zeros(())).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            seen.append({name: value.item() for name, value in parts.items()})
            if step % 20 == 19:
                means = " ".join(f"{name} {np.mean([one[name] for one in seen]):.4f}" for name in parts)
                logger.info(
                    "phase %d step %d %s %.2fs a step", number, step + 1, means, (time.monotonic() - began) / len(seen)
                )
                began, seen = time.monotonic(), []
            if step % 100 == 99 or step + 1 in (phase.until, stop_after):
                state = {
                    "model": model.state_dict(), "projector": projector.state_dict(), "optimiser": optimiser.state_dict(),
                    "layers": phase.layers, "phase": number, "done": step + 1,
                }  # fmt: skip
                torch.save(state, state_file.with_suffix(".tmp"))
                state_file.with_suffix(".tmp").replace(state_file)
            if step + 1 == stop_after:
                return model.eval(), projector.eval()
        done = phase.until
    return model.eval(), projector.eval()
