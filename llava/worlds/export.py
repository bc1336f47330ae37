"""A world in the layouts of real benchmarks, so that what runs on those runs on it with a changed path.

================  =====================================================================================================
``mme``           ``llava_mme.jsonl``, ``MME_test.json``; pictures and truth under ``MME_Benchmark_release_version`` where MME
                  keeps them: ``existence/0001.png`` beside ``existence/0001.txt``, but ``scene/images`` and
                  ``scene/questions_answers_YN``
``scienceqa``     ``problems.json``, ``pid_splits.json``, ``llava_test_CQM-A.json``, ``himap-inference-MCQ.json``,
                  ``images/test/{id}/image.png``
``llava``         ``llava_{world}.json`` (conversations) and ``images/``, the layout LLaVA trains on
``pope``          ``llava_pope_test.jsonl``, ``coco/coco_pope_{random,popular,adversarial}.json``, ``val2014/``
``boxes``         ``llava_boxes.jsonl``, ``boxes.jsonl``, ``images/``
``textvqa``       ``llava_textvqa_val_v051_ocr.jsonl``, ``TextVQA_0.5.1_val.json``, ``train_images/``
``coco_caption``  ``llava_coco_caption_val2014.jsonl``, ``annotations/captions_val2014.json``, ``val2014/``
``gqa``           ``llava_gqa_testdev_balanced.jsonl``, ``data/testdev_balanced_questions.json``, ``data/images/``
``vqav2``         ``llava_vqav2_mscoco_{test-dev2015,test2015}.jsonl``, ``v2_mscoco_test-dev2015_annotations.json`` (which the
                  server keeps of the real one), ``test2015/``
================  =====================================================================================================

The same seed writes the same bytes. The pictures come from a stream of seeds of their own, which no training reads.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping
from pathlib import Path

from rich.progress import track

from llava.files import write_json
from llava.folders import is_made, new_folder

from .layouts import WRITERS
from .mme import write_mme_test
from .protocol import World

logger = logging.getLogger(__name__)

MARK = "export.json"  # written last: a folder that has it is complete


def number_of_pictures(usual: Mapping[str, int], layout: str, images: int | None) -> int:
    """``images``, or the layout's usual number for None. Raises ValueError for an unknown layout and below 1."""
    if layout not in usual:
        raise ValueError(f"format={layout!r} is not known; choose one of {', '.join(usual)}")
    images = usual[layout] if images is None else images
    if images < 1:
        raise ValueError(f"images={images} is too few; give at least 1")
    return images


def export_world(
    world: World, layout: str, output: str | Path, images: int | None = None, seed: int = 0, progress: bool = False
) -> Path:
    """Write pictures and questions of a world into ``output`` in a layout; a folder that is complete is left as it is.

    layout: one of ``world.images``. images: how many pictures, for mme of each subtask unless these share them (default:
    what ``world.images`` says). An MME folder from before ``MME_test.json`` existed is given that file and nothing else. Everything is
    written to a folder beside ``output`` that is renamed at the end, so ``output`` is complete or absent. Raises
    ValueError for an unknown layout, for fewer than one picture, and when ``output`` holds something else.
    """
    images = number_of_pictures(world.images, layout, images)
    output = Path(output)
    source = b"".join(file.read_bytes() for file in world.sources())
    made = {"format": layout, "images": images, "seed": seed, "world": f"{zlib.crc32(source):08x}"}
    if is_made(output, MARK, made, "export", "written"):
        if layout == "mme" and not (output / "MME_test.json").is_file():
            write_mme_test(output)
        logger.info("%s is complete, nothing to draw", output)
        return output
    total = images * (len(world.subtasks) if layout == "mme" and not world.shared else 1)
    with new_folder(output) as partial:
        for _ in track(WRITERS[layout](world, partial, images, seed), f"drawing {layout}", total, disable=not progress):
            pass
        write_json(partial / MARK, made)
    logger.info("%d pictures in %s", total, output)
    return output
