"""Attention to the picture cut off, at one layer or from it on, and what that does to the answers.

    python -m llava.analysis.disruption --model-path playground/checkpoints/llava-shapes-v1 --task mme \
        --question-file playground/data/eval/MME-shapes --num-samples 32 --output-dir disruption

writes ``disruption.json`` and ``disruption.png`` and prints a table. What is cut (``--isolate-modality``):

``img2img``  the picture's rows see no column of the picture, their own neither
``img2txt``  the words after the picture, and the answer's, do not see it
``img2rnd``  a control: as many rows as there are words after the picture, drawn at random among the picture's and those

Label consistency is the share of answers that contain the label; score consistency the mean overlap (Jaccard) of the five likeliest first
tokens with those of the undisturbed model, or with ``top5_res`` of the question file. The documents' program says "layer" but
changes a mask that all later layers share, so it cuts from the layer on: ``--scope onward``, the default; ``--scope layer`` cuts there alone.
Its random rows are drawn anew at every step; here they depend on question, picture and ``--seed``.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from llava.cli.console import launch, terminal
from llava.cli.tables import print_table
from llava.eval.ask.subject import Generation, LlavaSubject, Reply
from llava.eval.report.panels import Panel, draw
from llava.eval.tasks.base import Example
from llava.eval.tasks.statistics import bootstrap
from llava.files import excerpt, numbered_records
from llava.model.language_model.reducible_llama import ReducibleLlamaModel
from llava.reduction import Ledger, Stage

from .command import analysis_settings, common_parser
from .observe import Measured, token_groups
from .prefix import SharedPrefix
from .session import AnalysisSettings, Session

MODALITIES = ("img2img", "img2txt", "img2rnd")
TOP = 5


@dataclass(frozen=True)
class Isolation:
    """What is cut, where, and whether there alone (``layer``) or from there on (``onward``)."""

    modality: str
    layer: int
    scope: str

    def layers(self, depth: int) -> range:
        """The layers that are disturbed, of ``depth``."""
        return range(self.layer, depth if self.scope == "onward" else self.layer + 1)


def blocked(modality: str, ledger: Ledger, seeds: Sequence[int]) -> Tensor:
    """Which entries of the attention (B, S, S) of a prefill are cut.

    ``seeds``, one a prompt, decide the rows of ``img2rnd``. Raises ValueError where a row would see nothing at all.
    """
    valid = ledger.valid
    found = torch.zeros(*valid.shape, valid.shape[1], dtype=torch.bool, device=valid.device)
    for row, seed in enumerate(seeds):
        place = valid[row].nonzero()[:, 0]
        columns = {name: place[own] for name, own in token_groups(ledger, row).items()}
        picture, words = columns["visual"], columns["text"]
        if len(picture) and ledger.visual[row, place[0]]:
            raise ValueError(
                "the picture is the prompt's very first token, so cut off from it a row sees nothing at all"
            )
        rows = {"img2img": picture, "img2txt": words}.get(modality)
        if rows is None:
            later = torch.cat([picture, words])
            generator = torch.Generator().manual_seed(seed)
            rows = later[torch.randperm(len(later), generator=generator)[: len(words)].to(later.device)]
        found[row, rows[:, None], picture] = True
    return found


@contextmanager
def isolated(decoder: ReducibleLlamaModel, isolation: Isolation, seeds: Sequence[int]) -> Iterator[None]:
    """While open, the layers of an isolation do not see what it cuts; of decoding steps only ``img2txt`` means anything.

    Every layer gets a mask of its own, so that none is disturbed but those. The prefill must drop no token in the decoder.
    """
    cut: dict[str, Tensor] = {}
    shown: dict[str, Tensor] = {}

    def begin(_decoder: nn.Module, _given: tuple, named: dict) -> None:
        embeds, mask, cache = (named.get(name) for name in ("inputs_embeds", "attention_mask", "cache"))
        if embeds is not None and embeds.shape[1] > 1:
            seen = embeds.new_ones(embeds.shape[:2]).bool() if mask is None else mask.bool()
            length = seen.shape[1]
            # Recomputed answers come with the prompt: what the map of the picture does not reach is text.
            visual = F.pad(named["visual"], (0, length - named["visual"].shape[1]))
            ledger = Ledger.start(visual, seen, torch.arange(length, device=seen.device)[None])
            cut["picture"] = ledger.visual > 0
            causal = torch.ones(length, length, dtype=torch.bool, device=seen.device).tril()
            allowed = causal & seen[:, None] & ~blocked(isolation.modality, ledger, seeds)
            shown["keys"] = allowed | torch.eye(length, dtype=torch.bool, device=seen.device) & ~seen[..., None]
            return
        picture = cut["picture"]
        seen = picture.new_ones(len(picture), cache.get_seq_length() + 1) if mask is None else mask.bool()
        hidden = F.pad(picture, (0, seen.shape[1] - picture.shape[1])) if isolation.modality == "img2txt" else ~seen
        shown["keys"] = (seen & ~hidden)[:, None]  # (B, 1, keys)

    def disturb(_layer: nn.Module, given: tuple, named: dict) -> tuple[tuple, dict]:
        hidden, keys = given[0], shown["keys"][:, None].to(given[0].device)
        mask = hidden.new_zeros(keys.shape).masked_fill(~keys, torch.finfo(hidden.dtype).min)
        return given, {**named, "attention_mask": mask}

    if decoder.config._attn_implementation not in ("eager", "sdpa"):
        raise ValueError(
            f"attn_implementation={decoder.config._attn_implementation!r} takes no mask of single entries; give sdpa or eager"
        )
    with ExitStack() as stack:
        stack.callback(decoder.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for number in isolation.layers(len(decoder.layers)):
            handle = decoder.layers[number].register_forward_pre_hook(disturb, with_kwargs=True)
            stack.callback(handle.remove)
        yield


class Disturbed(SharedPrefix):
    """Answers undisturbed, and measures on the way what every isolation makes of the same batch.

    A reply's ``layers`` are (text, five likeliest first tokens): of the undisturbed model first, then of every isolation.
    What lies before a disturbed layer is computed once.
    """

    def __init__(self, subject: LlavaSubject, isolations: Sequence[Isolation], seed: int = 0):
        super().__init__(subject, 0)
        self.isolations, self.seed = isolations, seed

    def answer(
        self, texts: Sequence[str], features: Sequence[Any], plan: list[Stage], generation: Generation
    ) -> list[Measured]:
        """Replies of the undisturbed model, each with those of every isolation."""
        seeds = [zlib.crc32(f"{self.seed} {picture.seed} {text}".encode()) for text, picture in zip(texts, features)]
        depth = len(self.decoder.layers)
        self.layers = depth
        replies, likeliest = self._once(texts, features, generation)
        found = [[(reply.text, top)] for reply, top in zip(replies, likeliest)]
        for isolation in self.isolations:
            self.layers = isolation.layer
            with isolated(self.decoder, isolation, seeds):
                disturbed, likeliest = self._once(texts, features, generation)
            for one, reply, top in zip(found, disturbed, likeliest):
                one.append((reply.text, top))
        return [Measured(**vars(reply), layers=layers) for reply, layers in zip(replies, found, strict=True)]

    def _once(self, texts, features, generation) -> tuple[list[Reply], list[list[int]]]:
        """Replies, and the five likeliest first tokens of each."""
        first: list[Tensor] = []

        def look(_head: nn.Module, _given: tuple, logits: Tensor) -> None:
            if not first:
                first.append(logits[:, -1].float().topk(TOP).indices)

        handle = self.subject.model.lm_head.register_forward_hook(look)
        try:
            replies = super().answer(texts, features, [], generation)
        finally:
            handle.remove()
        return replies, first[0].tolist()


def jaccard(first: Sequence[int], second: Sequence[int]) -> float:
    """Size of what two sets share over that of both together."""
    return len(set(first) & set(second)) / len(set(first) | set(second))


def reference_scores(file: Path) -> dict[str, list[int]]:
    """``top5_res`` of every question of a JSON list, by its id. Raises ValueError where a question has none."""
    scores = {}
    for place, question in numbered_records(file, {"id": str | int, "top5_res": list | None}):
        if not question.get("top5_res"):
            raise ValueError(
                f"{place}: question {excerpt(question['id'])} has no top5_res; leave out --reference-scores file to "
                "compare with the model itself"
            )
        scores[str(question["id"])] = question["top5_res"]
    if not scores:
        raise ValueError(
            f"{file} holds no question; leave out --reference-scores file to compare with the model itself"
        )
    return scores


def consistency(
    examples: Sequence[Example], texts: Sequence[str], overlaps: Sequence[float], correct: Sequence[bool]
) -> dict[str, dict]:
    """Label and score consistency and accuracy of one isolation, each with its 95 % interval over pictures."""
    named = {
        "label_consistency": [example.label in text for example, text in zip(examples, texts)],
        "score_consistency": overlaps,
        "accuracy": correct,
    }
    pictures = list(dict.fromkeys(example.picture for example in examples))
    member = np.array([[example.picture == picture for example in examples] for picture in pictures])
    sizes = member.sum(1)
    return {
        name: {
            "value": float(np.mean(values)),
            "interval": bootstrap(member @ np.array(values, dtype=float), sizes, limit=1.0),
        }
        for name, values in named.items()
    }


def show(rows: Sequence[dict]) -> None:
    """Print the figures, a line an isolation."""
    table = Table(title="attention cut off", title_justify="left")
    for head in ("cut", "layer", "label consistency", "score consistency", "accuracy"):
        table.add_column(head, justify="left" if head == "cut" else "right")
    for row in rows:
        figures = [row[name]["value"] for name in ("label_consistency", "score_consistency", "accuracy")]
        layer = "" if row["layer"] is None else f"{row['layer']}{'' if row['scope'] == 'layer' else ' on'}"
        table.add_row(row["modality"], layer, *(f"{figure:.3f}" for figure in figures))
    print_table(table, terminal())


def draw_consistency(rows: Sequence[dict], title: str) -> Any:
    """Both consistencies over the layer, a curve a modality, the undisturbed model as the line ``full``."""

    def point(row: dict, name: str) -> tuple[float, list[float]]:
        return row[name]["value"], row[name]["interval"]

    panels = [
        Panel(
            name.replace("_", " "),
            {
                modality: {row["layer"]: point(row, name) for row in rows if row["modality"] == modality}
                for modality in dict.fromkeys(row["modality"] for row in rows[1:])
            },
            {"full": point(rows[0], name)},
        )
        for name in ("label_consistency", "score_consistency")
    ]
    return draw(panels, title, "decoder layer")


def run(
    settings: AnalysisSettings,
    *,
    layers: Sequence[int] | None = None,
    modalities: Sequence[str] = MODALITIES,
    scope: str = "onward",
    seed: int = 0,
    max_new_tokens: int = 8,
    with_reference: bool = False,
) -> None:
    """Disturb every question and write files."""
    session = Session(settings)
    depth = session.layers
    layers = range(depth) if layers is None else layers
    for layer in layers:
        if not 0 <= layer < depth:
            raise ValueError(f"--isolate-layer {layer} must be 0 to {depth - 1}, the model's last")
    reference = reference_scores(Path(settings.evaluation.data)) if with_reference else {}
    isolations = [Isolation(modality, layer, scope) for modality in modalities for layer in layers]
    examples, results = [], []
    for example, reply, _ in session.ask(
        Disturbed(session.subject, isolations, seed), max_new_tokens=max_new_tokens, about="disturbing"
    ):
        expected = reference.get(example.question_id, reply.layers[0][1])
        correct = [bool(session.task.score(example, text)["correct"]) for text, _ in reply.layers]
        examples.append(example)
        results.append([(text, jaccard(top, expected), right) for (text, top), right in zip(reply.layers, correct)])
    named = [{"modality": "none", "layer": None, "scope": scope}, *(vars(isolation) for isolation in isolations)]
    rows = [
        {**name, **consistency(examples, *zip(*outcomes))} for name, outcomes in zip(named, zip(*results), strict=True)
    ]
    show(rows)
    where = "from the layer on" if scope == "onward" else "at that layer alone"
    figure = draw_consistency(rows, f"Attention to the picture cut {where}: {len(examples)} questions")
    session.save("disruption", {"samples": len(examples), "isolations": rows}, {"disruption": figure})


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = common_parser(
        "disruption", "Cut attention to the picture and see what becomes of the answers.", "attn_disruption"
    )

    def add(name: str, **options: Any) -> None:
        flags.add_argument(f"--{name}", f"--{name.replace('-', '_')}", **options)

    add("isolate-modality", nargs="+", choices=MODALITIES, default=list(MODALITIES), help="default: all three")
    add("isolate-layer", nargs="+", type=int, help="default: every layer")
    flags.add_argument(
        "--scope", choices=("onward", "layer"), default="onward", help="default: onward, as the documents' program does"
    )
    flags.add_argument("--seed", type=int, default=0, help="of the random rows")
    add("max-new-tokens", type=int, default=8, help="of an answer (default: 8)")
    add(
        "reference-scores",
        choices=("own", "file"),
        default="own",
        help="whose five likeliest tokens: the undisturbed model's, or top5_res of the question file",
    )
    return flags


def work(options: argparse.Namespace) -> None:
    """Run what a command line asks for."""
    run(
        analysis_settings(options),
        layers=options.isolate_layer,
        modalities=options.isolate_modality,
        scope=options.scope,
        seed=options.seed,
        max_new_tokens=options.max_new_tokens,
        with_reference=options.reference_scores == "file",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), work, arguments, stopped=None)


if __name__ == "__main__":
    sys.exit(main())
