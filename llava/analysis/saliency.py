"""What the right answer depends on: attention times its gradient, layer by layer.

    python -m llava.analysis.saliency --model-path playground/checkpoints/llava-shapes-v1 --task mme \
        --question-file playground/data/eval/MME-shapes --num-samples 80 --output-dir saliency

writes ``saliency.json``, ``saliency.png`` and, with ``--result-file``, a torch file of the measurements of every
sample. The loss L is the cross-entropy of the right answer's first token after the prompt, as the conversation template
continues it. With A a head's attention (post-softmax) the saliency of an entry, mean over the heads, is

``intended``  |A * dL/dA|, the definition (Wang et al. 2023, https://arxiv.org/abs/2305.14160): what taking the entry away
              does to the loss, to first order
``squared``   |A * A * dL/dA|, what the documents' program computes: it multiplies A by a leaf of ones, whose gradient is
              A * dL/dA already, and then by A once more

Its script for ScienceQA also asks for the wrong token, "B" where the model would say " B". Parameters get no gradients, and
a layer's map is reduced to a few sums as soon as its gradient is there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava.cli.console import launch
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import get_conversation
from llava.eval.ask.subject import Generation, Reply, vision_inputs
from llava.eval.results.folder import check_writable
from llava.eval.tasks.base import Example
from llava.mm_utils import tokenizer_image_token
from llava.model.language_model.reducible_family import ReducibleFamilyCausalLM
from llava.reduction import Ledger, Stage, reduced

from .command import add_plan_flag, analysis_settings, common_parser
from .figures import draw_layers
from .observe import GROUPS, Measured, MeasuringSubject, token_groups
from .session import AnalysisSettings, Session

VARIANTS = ("intended", "squared")
SCALE = 2.0**10  # of the loss, so that small gradients survive float16; divided out again


class Asked(str):
    """A prompt that knows its right answer."""

    label: str

    @classmethod
    def of(cls, prompt: str, label: str) -> Asked:
        """The prompt with its label."""
        instance = cls(prompt)
        instance.label = label
        return instance


def target_id(tokenizer: Any, conv_mode: str, text: str, label: str) -> int:
    """The first token of the answer ``label`` to ``text``, with the space that the template puts before it.

    Raises ValueError where the prompt's last token changes when the answer follows, so that the answer has no first one.
    """
    asked, answered = get_conversation(conv_mode), get_conversation(conv_mode)
    for talk, answer in ((asked, None), (answered, label)):
        talk.append_message(talk.roles[0], f"{DEFAULT_IMAGE_TOKEN}\n{text}")
        talk.append_message(talk.roles[1], answer)
    prompt, whole = (tokenizer_image_token(talk.get_prompt(), tokenizer) for talk in (asked, answered))
    if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
        raise ValueError(f"the answer {label!r} has no first token of its own after the template {conv_mode!r}")
    return whole[len(prompt)]


@contextmanager
def differentiable(model: ReducibleFamilyCausalLM, visit: Callable[[int, Tensor], None]) -> Iterator[None]:
    """While open, ``visit(number, attention)`` is shown every layer's attention (B, H, S, S), still part of the graph.

    Attention is eager meanwhile, and no parameter requires a gradient.
    """
    decoder = model.model
    config = decoder.config
    before = config._attn_implementation
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def show(number: int, _module: nn.Module, _given: tuple, output: tuple[Tensor, Tensor]) -> None:
        visit(number, output[1])

    with ExitStack() as stack:
        for number, layer in enumerate(decoder.layers):
            stack.callback(layer.get_submodule("self_attn").register_forward_hook(partial(show, number)).remove)
        try:
            config._attn_implementation = "eager"
            for parameter in asked:
                parameter.requires_grad_(False)
            yield
        finally:
            config._attn_implementation = before
            for parameter in asked:
                parameter.requires_grad_(True)


def saliency(model: ReducibleFamilyCausalLM, inputs: dict[str, Tensor], target: int) -> np.ndarray:
    """Saliency of one prompt, summed over blocks: (L, 2, 4, 4), layer, variant, rows' and columns' group of ``GROUPS``.

    ``inputs`` are the keywords of the model's forward with ``inputs_embeds`` (1, S, D); ``target`` the right token after the last.
    A plan in force applies, and the groups are those of the rows that entered each layer.
    """
    decoder = model.model
    blocks: dict[int, Tensor] = {}

    def reduce(number: int, attention: Tensor, gradient: Tensor) -> None:
        flow = attention[0].float() * gradient[0].float() / SCALE  # (H, S, S)
        member = _membership(decoder.last_ledgers[number]).to(flow)
        entries = torch.stack([flow.abs().mean(0), (attention[0].float() * flow).abs().mean(0)])
        blocks[number] = member @ entries @ member.T

    def visit(number: int, attention: Tensor) -> None:
        # Detached: a hook that holds its own tensor makes a cycle through the graph, which is never freed.
        attention.register_hook(partial(reduce, number, attention.detach()))

    with torch.enable_grad(), differentiable(model, visit):
        embeds = inputs["inputs_embeds"].detach().clone().requires_grad_(True)
        logits = model(**{**inputs, "inputs_embeds": embeds}, use_cache=False, logits_to_keep=1).logits[:, -1]
        loss = F.cross_entropy(logits.float(), torch.tensor([target], device=logits.device))
        (loss * SCALE).backward()
    return torch.stack([blocks[number] for number in range(len(decoder.layers))]).cpu().numpy()


def _membership(ledger: Ledger) -> Tensor:
    """Which group each row of the one prompt belongs to: (4, S) of ones and zeros."""
    columns = token_groups(ledger, 0)
    member = torch.zeros(len(GROUPS), int(ledger.valid.sum()))
    for place, name in enumerate(GROUPS):
        member[place, columns[name]] = 1
    return member


class Salience(MeasuringSubject):
    """Answers as ``subject`` does and measures the saliency of every prompt, one after the other; prompts are ``Asked``.

    A reply's ``layers`` are (sums (2, 4, 4), rows of each group (4,)), one pair per layer.
    """

    def answer(
        self, texts: Sequence[str], features: Sequence[Any], plan: list[Stage], generation: Generation
    ) -> list[Reply]:
        """Replies, each ``Measured`` with an entry for every layer. Raises TypeError for a prompt without its answer."""
        replies = self.subject.answer(texts, features, plan, generation)
        layers = [self._measure(text, picture, plan) for text, picture in zip(texts, features)]
        return [Measured(**vars(reply), layers=entries) for reply, entries in zip(replies, layers, strict=True)]

    def _measure(self, text: str, picture: Any, plan: list[Stage]) -> list[tuple[np.ndarray, np.ndarray]]:
        if not isinstance(text, Asked):
            raise TypeError(f"the prompt {text!r} does not know its right answer; make it with Asked.of")
        model, tokenizer = self.subject.model, self.subject.tokenizer
        target = target_id(tokenizer, self.subject.conv_mode, text, text.label)
        ids = torch.tensor([self.subject.prompt_ids(text, has_picture=True)], device=model.device)
        with reduced(model, plan):
            with torch.no_grad():
                spliced = model.splice(ids, **vision_inputs([picture]), padding_side="left")
            names = ("inputs_embeds", "attention_mask", "visual", "sample_seed", "token_size", "grids")
            sums = saliency(model, {name: getattr(spliced, name) for name in names}, target)
        rows = [[len(columns) for columns in token_groups(one, 0).values()] for one in self.decoder.last_ledgers]
        return list(zip(sums, np.array(rows)))


def props(sums: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The documents' two readings of sums (..., 4, 4) with the groups' rows (..., 4): ``props_all`` (..., 3), ``props_img`` (..., 2).

    ``props_all``: the saliency in the rows of system (with BOS), picture and words after it, each divided by the number
    of its rows. ``props_img``: that in the picture's columns, in the picture's rows and in the words'.
    """
    by_rows = np.stack([sums[..., :2, :].sum((-1, -2)), sums[..., 2, :].sum(-1), sums[..., 3, :].sum(-1)], axis=-1)
    count = np.stack([rows[..., :2].sum(-1), rows[..., 2], rows[..., 3]], axis=-1)
    return by_rows / np.maximum(count, 1), sums[..., 2:, 2]


def run(settings: AnalysisSettings, result_file: Path | None = None) -> None:
    """Measure the saliency of every question and write files."""
    session = Session(settings)
    if result_file:
        check_writable(result_file.parent)

    def prompt(example: Example) -> Asked:
        return Asked.of(session.task.prompt(example), example.label)

    lines, layers = session.measure(Salience(session.subject), prompt=prompt, about="differentiating")
    sums, rows = (
        np.array([[layer[part] for layer in sample] for sample in layers]) for part in range(2)
    )  # (n, L, 2, 4, 4), (n, L, 4)
    content: dict[str, Any] = {"samples": len(lines), "groups": GROUPS}
    panels, held = {}, {}
    for place, variant in enumerate(VARIANTS):
        every, picture = props(sums[:, :, place], rows)
        flow = picture / np.maximum(picture.sum(1, keepdims=True), np.finfo(float).tiny)
        content[variant] = {
            "props_all": dict(zip(("system", "visual", "text"), np.moveaxis(every.mean(0), -1, 0))),
            "props_img": dict(zip(("img2img", "img2txt"), np.moveaxis(picture.mean(0), -1, 0))),
            "flow_ratio": dict(zip(("img2img", "img2txt"), np.moveaxis(flow.mean(0), -1, 0))),
            "sums": sums[:, :, place].mean(0),
        }
        panels[f"share of the sample's saliency, {variant}"] = {
            "picture to words": flow[..., 1],
            "picture to picture": flow[..., 0],
        }
        held[variant] = (every, picture)
    figure = draw_layers(panels, lines, f"Where the answer takes the picture from: mean of {len(lines)} samples")
    if result_file:
        torch.save(result_list(lines, held), result_file)
    session.save("saliency", content, {"saliency": figure})


def result_list(lines: Sequence[dict], held: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[dict]:
    """What ``--result-file`` holds: per sample ``props_all`` (L, 3) and ``props_img`` (L, 2), in both variants."""
    every, picture = held["intended"]
    squared_every, squared_picture = held["squared"]
    return [
        {
            **line,
            "props_all": torch.from_numpy(every[number]),
            "props_img": torch.from_numpy(picture[number]),
            "props_all_squared": torch.from_numpy(squared_every[number]),
            "props_img_squared": torch.from_numpy(squared_picture[number]),
        }
        for number, line in enumerate(lines)
    ]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = common_parser("saliency", "What the right answer depends on, layer by layer.", "mme_saliency_plots")
    add_plan_flag(flags)
    flags.add_argument(
        "--result-file", "--result_file", type=Path, help="also write a torch file, one entry per sample"
    )
    return flags


def work(options: argparse.Namespace) -> None:
    """Run what a command line asks for."""
    run(analysis_settings(options), options.result_file)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), work, arguments, stopped=None)


if __name__ == "__main__":
    sys.exit(main())
