"""The drawn world in the layouts of real benchmarks, so that what runs on them runs on it by a changed path.

    python -m llava.shapes.export --format mme --output playground/data/eval/MME-shapes

================  =====================================================================================================
``mme``           ``llava_mme.jsonl``, ``MME_test.json``; pictures and truth under ``MME_Benchmark_release_version`` where MME
                  keeps them: ``existence/0001.png`` beside ``existence/0001.txt``, but ``scene/images`` and
                  ``scene/questions_answers_YN``
``scienceqa``     ``problems.json``, ``pid_splits.json``, ``llava_test_CQM-A.json``, ``himap-inference-MCQ.json``,
                  ``images/test/{id}/image.png``
``llava``         ``llava_shapes.json`` (conversations) and ``images/``, the layout LLaVA trains on
``pope``          ``llava_pope_test.jsonl``, ``coco/coco_pope_{random,popular,adversarial}.json``, ``val2014/``
``textvqa``       ``llava_textvqa_val_v051_ocr.jsonl``, ``TextVQA_0.5.1_val.json``, ``train_images/``
``coco_caption``  ``llava_coco_caption_val2014.jsonl``, ``annotations/captions_val2014.json``, ``val2014/``
``gqa``           ``llava_gqa_testdev_balanced.jsonl``, ``data/testdev_balanced_questions.json``, ``data/images/``
``vqav2``         ``llava_vqav2_mscoco_{test-dev2015,test2015}.jsonl``, ``v2_mscoco_test-dev2015_annotations.json`` (which the
                  server keeps of the real one), ``test2015/``
================  =====================================================================================================

The same seed writes the same bytes. The pictures come from a stream of seeds of their own, which no training reads.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import shutil
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

from rich.progress import track

from llava.utils import exit_code

from . import questions, world
from .layouts import WRITERS, write_mme_test
from .questions import CATEGORIES

logger = logging.getLogger(__name__)

MARK = "export.json"  # written last: a folder that has it is complete
IMAGES = {
    "mme": 25,
    "scienceqa": 200,
    "llava": 1000,
    "pope": 25,
    "textvqa": 200,
    "coco_caption": 200,
    "gqa": 100,
    "vqav2": 100,
}


def export(layout: str, output: str | Path, images: int | None = None, seed: int = 0, progress: bool = False) -> Path:
    """Draw pictures and questions into ``output`` in the given layout; a folder that is complete is left as it is.

    ``layout`` is one of those above; ``images`` is a number of pictures, for mme that of each subtask (default: ``IMAGES``).
    An MME folder of before there was ``MME_test.json`` is given that file and nothing else. Everything is written to a folder beside ``output`` that takes its name at the end, so ``output`` is whole
    or not there. Raises ValueError for an unknown layout, for fewer than one picture, and when ``output`` holds something
    else.
    """
    if layout not in WRITERS:
        raise ValueError(f"format={layout!r} is not known; choose one of {', '.join(WRITERS)}")
    images = IMAGES[layout] if images is None else images
    if images < 1:
        raise ValueError(f"images={images} is too few; give at least 1")
    output = Path(output)
    source = b"".join(Path(inspect.getfile(module)).read_bytes() for module in (world, questions))
    made = {"format": layout, "images": images, "seed": seed, "world": f"{zlib.crc32(source):08x}"}
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        mark = output / MARK
        written = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else None
        if written == made:
            if layout == "mme" and not (output / "MME_test.json").is_file():
                write_mme_test(output)
            logger.info("%s is complete, nothing to draw", output)
            return output
        held = "something that was not written here" if written is None else f"another export ({written})"
        raise ValueError(
            f"output={str(output)!r} holds {held}, asked for is {made}; give another folder or remove this one"
        )
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    total = images * (len(CATEGORIES) if layout == "mme" else 1)
    for _ in track(WRITERS[layout](partial, images, seed), f"drawing {layout}", total, disable=not progress):
        pass
    (partial / MARK).write_text(json.dumps(made, indent=1), encoding="utf-8")
    if output.exists():
        output.rmdir()
    partial.rename(output)
    logger.info("%d pictures in %s", total, output)
    return output


def parser() -> argparse.ArgumentParser:
    """Layout, folder, how many pictures, seed."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.shapes.export", description="Draw the embedded world as a benchmark."
    )
    flags.add_argument("--format", choices=tuple(WRITERS), default="mme")
    flags.add_argument("--output", required=True, help="folder to make")
    flags.add_argument(
        "--images",
        type=int,
        help="pictures; for mme, of each subtask (default "
        + ", ".join(f"{name} {n}" for name, n in IMAGES.items())
        + ")",
    )
    flags.add_argument("--seed", type=int, default=0)
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    options = parser().parse_args(arguments)
    return exit_code(lambda: export(options.format, options.output, options.images, options.seed, progress=True))


if __name__ == "__main__":
    sys.exit(main())
