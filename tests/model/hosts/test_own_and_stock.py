"""A LLaVA checkpoint as our own class and as transformers': the same plans keep the same tokens and give the same logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from llava import reduced
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.model.convert import main
from llava.model.hosts import model_trace
from tests.conftest import PARITY15
from tests.model.test_convert import QUESTION, images

PLANS = [
    "fastv@2:25%", "divprune:20", "random:20", "fastervlm:20", "visionzip:20", "prumerge_plus:20", "scope:20",
    "holov:20", "cdpruner:20,relevance=embeddings", "m3:9", "otprune:20", "divprune:50%+fastv@1:25%", "pyramiddrop", "dart@1:20",
]  # fmt: skip


@pytest.fixture(scope="module")
def sides(tmp_path_factory) -> tuple[Any, dict[str, Any], Any, dict[str, Any]]:
    """Our model and its inputs, transformers' and its."""
    folder = tmp_path_factory.mktemp("stock") / "llava15"
    assert main([str(PARITY15 / "checkpoint"), str(folder), "--to", "llava-hf", "--dtype", "float32"]) == 0
    tokenizer, ours, image_processor, _ = load_pretrained_model(PARITY15 / "checkpoint", device="cpu")
    processor, theirs = (
        AutoProcessor.from_pretrained(folder),
        AutoModelForImageTextToText.from_pretrained(folder).eval(),
    )
    picture = images((400, 300))
    inputs = processor(images=picture, text=QUESTION, return_tensors="pt")
    own = {
        "input_ids": tokenizer_image_token(QUESTION, tokenizer, return_tensors="pt")[None],
        "images": process_images(picture, image_processor, ours.config),
        "image_sizes": [picture[0].size],
    }
    return ours, own, theirs, dict(inputs)


@pytest.mark.parametrize("plan", PLANS)
def test_the_same_tokens_and_the_same_logits(sides, plan):
    ours, own, theirs, stock = sides
    with torch.no_grad(), reduced(ours, plan):
        wanted = ours(**own).logits[0, -1]
    with torch.no_grad(), reduced(theirs, plan):
        logits = theirs(**stock).logits[0, -1, : len(wanted)]
    kept = [record.kept[0].tolist() for record in ours.last_trace if len(record.kept)]
    assert [record.kept[0].tolist() for record in model_trace(theirs)] == kept and kept
    torch.testing.assert_close(logits, wanted, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("plan", ["fastv@1:25%", "divprune:20"])
def test_the_same_answer(sides, plan):
    ours, own, theirs, stock = sides
    with reduced(ours, plan):
        wanted = ours.generate(own["input_ids"], images=own["images"], image_sizes=own["image_sizes"], max_new_tokens=6)
    with reduced(theirs, plan):
        answer = theirs.generate(**stock, max_new_tokens=6, do_sample=False)
    assert answer[0, stock["input_ids"].shape[1] :].tolist() == wanted[0].tolist()
