"""Pictures that come again: the same answers, and the tower sees only what it has not seen."""

from __future__ import annotations

import pytest

pytest.importorskip("pydantic", reason="the server's extra is not installed: pip install 'llava-condense[serve]'")

from llava.conversation import get_conversation  # noqa: E402
from llava.mm_utils import process_images  # noqa: E402
from llava.model.multimodal_encoder.tower import VisionTower  # noqa: E402
from llava.reduction import plan_from  # noqa: E402
from llava.serve.openai.__main__ import open_chat, parser  # noqa: E402
from llava.serve.openai.chat import Turn  # noqa: E402
from llava.serve.openai.llava_chat import LlavaChat  # noqa: E402
from llava.serve.openai.picture_cache import PictureCache  # noqa: E402
from llava.shapes.world import make_scene, render  # noqa: E402
from tests.conftest import PARITY15  # noqa: E402
from tests.serve.answers import answer  # noqa: E402

PLANS = ["", "random@features:9", "fastervlm:9", "tome:144+divprune:9", "downsample:144", "fastv@2:9"]


@pytest.fixture
def passes(monkeypatch):
    """How many crops each pass of a tower saw."""
    seen: list[int] = []
    encode = VisionTower.encode

    def counted(self, pixels, *given, **named):
        seen.append(len(pixels))
        return encode(self, pixels, *given, **named)

    monkeypatch.setattr(VisionTower, "encode", counted)
    return seen


def chat_about(loaded, most: int) -> LlavaChat:
    return LlavaChat(
        "own", loaded.tokenizer, loaded.model, loaded.image_processor, get_conversation("vicuna_v1"), picture_cache=most
    )


def ask(scene: int, text: str = "What is there?") -> list[Turn]:
    return [Turn("user", text, [render(make_scene(scene))])]


@pytest.mark.parametrize("plan", PLANS)
def test_every_turn_of_a_dialogue_is_answered_as_ever(llava15, plan, passes):
    """Its later turns bring the picture of the first, and here also a new one."""
    dialogue = ask(1)
    forgetful, cached = chat_about(llava15, 0), chat_about(llava15, 10**9)
    crops = []
    for follow_up in (ask(2, "And there?"), ask(1, "And in the first again?"), ask(3, "And there?")):
        ((text, end),) = expected = answer(forgetful, dialogue, plan=plan)
        passes.clear()
        assert answer(cached, dialogue, plan=plan) == expected
        crops.append(sum(passes))
        dialogue = [*dialogue, Turn("assistant", text or "Nothing."), *follow_up]
        assert end.usage.visual == 576 * sum(len(turn.images) for turn in dialogue[:-2])
    assert crops == [1, 1, 0]


@pytest.mark.parametrize("most", [0, 10**9])
def test_questions_of_a_batch_about_one_picture_share_it(llava15, most, passes):
    chat = chat_about(llava15, most)
    expected = [answer(chat_about(llava15, 0), ask(scene, text)) for scene, text in ((1, "A?"), (2, "B?"), (1, "C?"))]
    passes.clear()
    assert answer(chat, ask(1, "A?"), ask(2, "B?"), ask(1, "C?")) == [one for (one,) in expected]
    assert sum(passes) == 2


def test_a_picture_is_kept_for_plans_that_ask_the_tower_alike(llava15, passes):
    chat = chat_about(llava15, 10**9)
    for plan in ("", "divprune:9", "fastv@2:9", "fastervlm:9", "hired:9", "tome:144", "visionzip:16", "tome:144"):
        answer(chat, ask(1), plan=plan)
    assert len(passes) == 4, "for features alone, fastervlm and hired, the merge, and visionzip"


def test_crops_are_kept(llava16, passes):
    case = next(case for case in llava16.cases() if case["images"])
    images = list(llava16.inputs(case)["images"])
    cache, plan = PictureCache(llava16.model, 10**9), plan_from("fastervlm:64")
    first, again = cache.see(images, plan), cache.see(images, plan)
    assert sum(passes) == sum(map(len, images))
    assert all((one.features == two.features).all() for one, two in zip(first, again, strict=True))


def test_the_longest_unused_makes_room(llava15, passes):
    pictures = [render(make_scene(scene)) for scene in range(4)]
    pixels = process_images(pictures, llava15.image_processor, llava15.model.config)
    (one,) = PictureCache(llava15.model).see(pixels[:1], [])
    cache = PictureCache(llava15.model, 2 * one.nbytes)
    for scene in (0, 1, 0, 2):
        cache.see([pixels[scene]], [])
    passes.clear()
    cache.see(pixels[:1], [])
    cache.see(pixels[2:3], [])
    assert not passes, "1 had to go, which was not asked for since"
    cache.see(pixels[1:2], [])
    assert passes == [1]
    assert len(cache.see(pixels, [])) == 4, "more at once than it may keep"
    kept = list(cache._kept.values())
    assert sum(image.nbytes for image in kept) <= cache.most_bytes
    assert all(image.features.untyped_storage().nbytes() == image.features.nbytes for image in kept)


def test_the_command_keeps_256_mebibytes(tmp_path):
    flags = ["--model-path", str(PARITY15 / "checkpoint"), "--served-name", "own", "--device", "cpu"]
    assert open_chat(parser().parse_args(flags))._pictures.most_bytes == 256 * 2**20
    assert open_chat(parser().parse_args([*flags, "--picture-cache", "0"]))._pictures.most_bytes == 0
    with pytest.raises(ValueError, match="picture_cache=-1 must be at least 0"):
        open_chat(parser().parse_args([*flags, "--picture-cache", "-1"]))
    with pytest.raises(ValueError, match="--picture-cache has no effect on a --stock model"):
        open_chat(parser().parse_args([*flags, "--stock", "--picture-cache", "8"]))
