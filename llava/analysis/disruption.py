"""Attention to the picture cut off, at one layer or from that layer on, and what that does to the answers.

    python -m llava.analysis.disruption --model-path playground/checkpoints/llava-shapes-v1 --task mme \
        --question-file playground/data/eval/MME-shapes --num-samples 32 --output-dir disruption

writes ``disruption.json`` and ``disruption.png`` and prints a table. What is cut (``--isolate-modality``):

``img2img``  the picture's rows see no column of the picture, not even their own
``img2txt``  the words after the picture, and the answer's, do not see it
``img2rnd``  a control: as many rows as there are words after the picture, drawn at random from the rows of both

Label consistency is the share of answers that contain the label; score consistency is the mean overlap (Jaccard) of the
five likeliest first tokens with those of the undisturbed model, or with ``top5_res`` of the question file. The
documents' program says "layer" but changes a mask that all later layers share, so it cuts from that layer on: ``--scope
onward``, the default; ``--scope layer`` cuts there alone. Its random rows are drawn again at every step; here they
depend on question, picture and ``--seed``.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from torch import Tensor, nn

from llava.cli.console import launch, terminal
from llava.cli.tables import print_table
from llava.eval.ask.subject import Generation, LlavaSubject, Reply
from llava.eval.report.panels import Panel, draw
from llava.eval.tasks.base import Example
from llava.eval.tasks.statistics import bootstrap
from llava.files import excerpt, numbered_records
from llava.reduction import Stage

from .command import analysis_settings, common_parser
from .isolation import MODALITIES, Isolation, isolated
from .observe import Measured
from .prefix import SharedPrefix
from .session import AnalysisSettings, Session

TOP = 5


class Disturbed(SharedPrefix):
    """Answers as the undisturbed model does, and measures on the way how every isolation answers the same batch.

    A reply's ``layers`` are (text, five likeliest first tokens): first the undisturbed model's, then each isolation's.
    The layers before a disturbed one are computed once.
    """

    def __init__(self, subject: LlavaSubject, isolations: Sequence[Isolation], seed: int = 0):
        super().__init__(subject, 0)
        self.isolations, self.seed = isolations, seed

    def answer(
        self, texts: Sequence[str], features: Sequence[Any], plan: list[Stage], generation: Generation
    ) -> list[Reply]:
        """Replies of the undisturbed model, each ``Measured`` with those of every isolation."""
        seeds = [zlib.crc32(f"{self.seed} {picture.seed} {text}".encode()) for text, picture in zip(texts, features)]
        depth = len(self.decoder.layers)
        self.layers = depth
        replies, likeliest = self._once(texts, features, generation)
        states = [[(reply.text, top)] for reply, top in zip(replies, likeliest)]
        for isolation in self.isolations:
            self.layers = isolation.layer
            with isolated(self.decoder, isolation, seeds):
                disturbed, likeliest = self._once(texts, features, generation)
            for one, reply, top in zip(states, disturbed, likeliest):
                one.append((reply.text, top))
        return [Measured(**vars(reply), layers=layers) for reply, layers in zip(replies, states, strict=True)]

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
    """Jaccard index of two sets: the size of their intersection over that of their union."""
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
            "interval": bootstrap((member @ np.array(values, dtype=float)).tolist(), sizes, limit=1.0),
        }
        for name, values in named.items()
    }


def show(rows: Sequence[dict]) -> None:
    """Print the figures, one line per isolation."""
    table = Table(title="attention cut off", title_justify="left")
    for head in ("cut", "layer", "label consistency", "score consistency", "accuracy"):
        table.add_column(head, justify="left" if head == "cut" else "right")
    for row in rows:
        figures = [row[name]["value"] for name in ("label_consistency", "score_consistency", "accuracy")]
        layer = "" if row["layer"] is None else f"{row['layer']}{'' if row['scope'] == 'layer' else ' on'}"
        table.add_row(row["modality"], layer, *(f"{figure:.3f}" for figure in figures))
    print_table(table, terminal())


def draw_consistency(rows: Sequence[dict], title: str) -> Any:
    """Both consistencies over the layers, one curve per modality, with the undisturbed model as the line ``full``."""

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
        undisturbed: list[int] = reply.layers[0][1]
        expected = reference.get(example.question_id, undisturbed)
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
    flags.add_argument("--seed", type=int, default=0, help="seed of the random rows")
    add("max-new-tokens", type=int, default=8, help="longest answer in tokens (default: 8)")
    add(
        "reference-scores",
        choices=("own", "file"),
        default="own",
        help="the five likeliest tokens to compare with: the undisturbed model's, or top5_res of the question file",
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
