"""Pictures, image tokens and stopping; expected numbers are worked out by hand."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava.conversation import conv_templates
from llava.mm_utils import (
    KeywordsStoppingCriteria,
    divide_to_patches,
    expand2square,
    get_anyres_image_grid_shape,
    get_model_name_from_path,
    process_anyres_image,
    process_images,
    question_with_images,
    resize_and_pad_image,
    select_best_resolution,
    squarable,
    tokenizer_image_token,
)
from llava.model.tokenizer import load_tokenizer
from tests.conftest import PARITY15

SHAPES = Path(__file__).parents[1] / "playground/checkpoints/llava-shapes-v1"
GRIDS = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]


@pytest.fixture(scope="module")
def processor():
    return CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/llava-v1.5-7b", "llava-v1.5-7b"), ("/a/b/", "b"), ("x/run/checkpoint-100", "run_checkpoint-100")],
)
def test_model_name(path, name):
    assert get_model_name_from_path(path) == name


def test_expand2square_centres_on_the_colour():
    square = expand2square(Image.new("RGB", (200, 100), (1, 2, 3)), (122, 116, 104))
    assert square.size == (200, 200)
    assert [square.getpixel((7, y)) for y in (49, 50, 149, 150)] == [
        (122, 116, 104),
        (1, 2, 3),
        (1, 2, 3),
        (122, 116, 104),
    ]
    tall = expand2square(Image.new("RGB", (100, 201)), (9, 9, 9))
    assert tall.size == (201, 201) and tall.getpixel((49, 0)) == (9, 9, 9) and tall.getpixel((50, 0)) == (0, 0, 0)


def test_a_square_picture_is_left_alone():
    picture = Image.new("RGB", (3, 3))
    assert expand2square(picture, (0, 0, 0)) is picture


def test_pad_uses_the_mean_colour(processor):
    picture = Image.new("RGB", (56, 28), (255, 255, 255))
    pixels = process_images([picture], processor, SimpleNamespace(image_aspect_ratio="pad"))
    assert pixels.shape == (1, 3, 28, 28)
    # (122, 116, 104) is the mean rounded down: nearly 0 after normalising.
    assert pixels[0, :, 0, 0].abs().max() < 0.02 and pixels[0, :, 14, 14].min() > 1


def test_without_a_layout_the_processor_crops(processor):
    picture = Image.new("RGB", (56, 28), (255, 255, 255))
    pixels = process_images([picture, picture], processor, SimpleNamespace())
    assert pixels.shape == (2, 3, 28, 28) and pixels[:, :, 0, 0].min() > 1


def test_different_crop_counts_stay_a_list(processor):
    config = SimpleNamespace(image_aspect_ratio="anyres", image_grid_pinpoints=str([(28, 56), (56, 56)]))
    pixels = process_images([Image.new("RGB", (10, 20)), Image.new("RGB", (90, 90))], processor, config)
    assert [tuple(part.shape) for part in pixels] == [(3, 3, 28, 28), (5, 3, 28, 28)]


@pytest.mark.parametrize(
    ("size", "best"),
    [((1000, 500), (672, 336)), ((500, 1000), (336, 672)), ((900, 300), (1008, 336)), ((600, 600), (672, 672))],
)
def test_select_best_resolution(size, best):
    assert select_best_resolution(size, GRIDS) == best


def test_ties_waste_least():
    # 100 x 100 is wholly kept by both grids.
    assert select_best_resolution((100, 100), [(672, 672), (336, 672)]) == (336, 672)


def test_resize_and_pad():
    placed = resize_and_pad_image(Image.new("RGB", (100, 50), (255, 255, 255)), (60, 60))
    column = [placed.getpixel((30, y))[0] for y in (14, 15, 44, 45)]
    assert placed.size == (60, 60) and column == [0, 255, 255, 0]


def test_patches_go_row_by_row():
    picture = Image.new("L", (4, 4))
    picture.putdata(range(16))
    assert [list(patch.getdata()) for patch in divide_to_patches(picture, 2)] == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
        [8, 9, 12, 13],
        [10, 11, 14, 15],
    ]


def test_grid_shape_reads_text_too():
    assert get_anyres_image_grid_shape((1000, 500), GRIDS, 336) == (2, 1)
    assert get_anyres_image_grid_shape((300, 900), str(GRIDS), 336) == (1, 3)
    with pytest.raises(ValueError, match="image_grid_pinpoints"):
        get_anyres_image_grid_shape((300, 900), [], 336)


def test_anyres_begins_with_the_whole(processor):
    picture = Image.new("RGB", (56, 28))
    picture.paste((255, 255, 255), (28, 0, 56, 28))
    whole, left, right = process_anyres_image(picture, processor, [(56, 28)])
    assert left.max() < 0 < right.min() and whole[0, 0, 0] < 0 < whole[0, 0, 27]


LAYOUTS = [
    SimpleNamespace(image_aspect_ratio="pad"),
    SimpleNamespace(),
    SimpleNamespace(image_aspect_ratio="anyres", image_grid_pinpoints=[(28, 56), (56, 28), (56, 56)]),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=["pad", "crop", "anyres"])
def test_pictures_of_every_mode_have_one_normal_form(processor, layout):
    grey = Image.fromarray(np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16))
    clear = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    for picture, same in ((grey, grey.convert("F").convert("L")), (clear, Image.new("RGB", (40, 30), "white"))):
        if picture is grey:
            same = Image.fromarray(np.rint(np.asarray(grey) / 257).astype(np.uint8))
        pixels, expected = (process_images([image], processor, layout) for image in (picture, same))
        assert torch.equal(pixels, expected)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(width=st.integers(1, 2048), height=st.integers(1, 2048))
def test_pictures_of_common_sizes_are_squared_at_full_size(width, height):
    picture = Image.new("L", (width, height))
    assert squarable(picture) is picture


@pytest.mark.parametrize("size", [(4000, 3000), (6000, 4000), (8192, 2048), (8000, 8000)])
def test_photographs_are_squared_at_full_size(size):
    picture = Image.new("1", size)
    assert squarable(picture) is picture


@settings(deadline=None, derandomize=True, max_examples=40)
@given(long=st.integers(1, 30000), short=st.integers(1, 3000), tall=st.booleans())
def test_a_square_is_bounded_by_the_pixels_of_its_picture(long, short, tall):
    size = (short, long) if tall else (long, short)
    side = max(squarable(Image.new("1", size)).size)
    assert side**2 <= max(2048**2, 4 * long * short) and side <= 8192


@pytest.mark.parametrize("layout", LAYOUTS[:2], ids=["pad", "crop"])
@pytest.mark.parametrize("size", [(2000, 9), (9, 2000), (2001, 2)])
def test_extreme_proportions_are_the_same_up_to_resampling(processor, layout, size, monkeypatch):
    width, height = size
    ramp = np.linspace(0, 255, width * height).reshape(height, width) if width > height else None
    ramp = np.linspace(0, 255, width * height).reshape(width, height).T if ramp is None else ramp
    picture = Image.fromarray(ramp.astype(np.uint8)).convert("RGB")
    monkeypatch.setattr("llava.mm_utils.LEAST_SIDE", 300)
    bounded = process_images([picture], processor, layout)
    monkeypatch.setattr("llava.mm_utils.LEAST_SIDE", 10000)
    monkeypatch.setattr("llava.mm_utils.MOST_SIDE", 10000)
    whole = process_images([picture], processor, layout)
    assert bounded.shape == whole.shape and (bounded - whole).abs().mean() < 0.02


def test_a_long_strip_takes_little_memory():
    script = """
        import resource
        from types import SimpleNamespace
        from PIL import Image
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
        from llava.mm_utils import process_images
        processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
        for layout in ("anyres", "crop", "pad"):
            config = SimpleNamespace(image_aspect_ratio=layout, image_grid_pinpoints=[(336, 672), (672, 336)])
            process_images([Image.new("RGB", (336, 336))], processor, config)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for size in ((20000, 10), (1, 50000)):
                process_images([Image.new("RGB", size)], processor, config)
            print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert max(map(float, done.stdout.split())) < 150, done.stdout  # MiB


class Words:
    """A tokenizer whose ids are character codes behind a BOS (or none)."""

    bos_token_id = 1

    def __init__(self, bos: bool = True):
        self.bos = bos

    def __call__(self, text):
        return SimpleNamespace(input_ids=[1] * self.bos + [ord(c) for c in text])

    def decode(self, ids, skip_special_tokens=True):
        return "".join(chr(i) for i in ids if i > 1)


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("ab", [1, 97, 98]),
        ("a<image>b", [1, 97, -200, 98]),
        ("a<image>b<image>", [1, 97, -200, 98, -200]),
        ("<image>b", [1, -200, 98]),
        ("<image><image>", [1, -200, -200]),
    ],
)
def test_image_tokens(prompt, ids):
    assert tokenizer_image_token(prompt, Words()) == ids
    assert tokenizer_image_token(prompt, Words(bos=False)) == ids[1:]
    assert torch.equal(tokenizer_image_token(prompt, Words(), return_tensors="pt"), torch.tensor(ids))


def test_the_image_word_may_be_text():
    assert tokenizer_image_token("a<image>", Words(), image_token_index=None) == [1, *map(ord, "a<image>")]


@pytest.mark.parametrize("half", ["\ud83d", "\ude00"])
def test_half_a_surrogate_pair_is_refused(half):
    with pytest.raises(ValueError, match=r"the prompt has '\\ud[8e][03][0d]', half of a surrogate pair"):
        tokenizer_image_token(f"a{half}b", Words())


def test_where_images_go():
    plain, marked = SimpleNamespace(), SimpleNamespace(mm_use_im_start_end=True)
    assert question_with_images("why?", 2, plain) == "<image>\n<image>\nwhy?"
    assert question_with_images("why?", 1, marked) == "<im_start><image><im_end>\nwhy?"
    assert (
        question_with_images("is <image-placeholder> like <image-placeholder>?", 2, plain) == "is <image> like <image>?"
    )
    assert question_with_images("what is <image>", 1, plain) == "what is <image>"
    assert question_with_images("why?", 0, plain) == "why?"


@pytest.mark.parametrize(("text", "count"), [("<image> <image>", 1), ("<image>", 0), ("<image-placeholder>", 2)])
def test_images_and_their_words_must_agree(text, count):
    with pytest.raises(ValueError, match=rf"has {text.count('<')} <image> for {count} images"):
        question_with_images(text, count, SimpleNamespace())


def test_only_torch_tensors():
    with pytest.raises(ValueError, match="Unsupported tensor type: np"):
        tokenizer_image_token("a", Words(), return_tensors="np")


def codes(*texts: str) -> torch.Tensor:
    return torch.tensor([[ord(c) for c in text] for text in texts])


def test_stopping_is_per_row():
    prompt = torch.tensor([[1, 35, -200], [1, 35, -200]])
    stop = KeywordsStoppingCriteria(["##"], Words(), prompt)
    assert stop(codes("ab##", "abcd"), None).tolist() == [True, False]
    assert stop(codes("a##b", "####"), None).tolist() == [False, True]


def test_stopping_does_not_read_the_prompt():
    prompt = codes("x##")
    stop = KeywordsStoppingCriteria(["##"], Words(), prompt)
    assert not stop(codes("x##"), None).any()
    assert not stop(codes("x##y"), None).any()
    assert stop(codes("x##y##"), None).all()


def test_stopping_finds_a_keyword_written_with_other_tokens():
    class Pairs(Words):
        def decode(self, ids, skip_special_tokens=True):
            return {7: "a#", 8: "#b"}.get(ids[0], "") + {7: "a#", 8: "#b"}.get(ids[-1], "")

    stop = KeywordsStoppingCriteria(["##"], Pairs(), torch.tensor([[1]]))
    assert stop(torch.tensor([[3, 7, 8]]), None).all() and not stop(torch.tensor([[3, 8, 7]]), None).any()


def test_beams_share_their_prompt():
    stop = KeywordsStoppingCriteria(["##"], Words(), codes("a#", "b#"))
    assert stop(codes("a##", "a#x", "b#x", "b##"), None).tolist() == [False] * 4
    assert stop(codes("a###", "a#xx", "b#xx", "b###"), None).tolist() == [True, False, False, True]


CONTEXTS = ["", "yes", "yes. ", "yes\n", "no: ", "é", "\n\n", "###", " "]


def first_step(tokenizer, keyword: str, ids: list[int]) -> tuple[int | None, int | None]:
    """After how many ids the criterion stops, and after how many the whole text, decoded anew, has the keyword."""
    stop = KeywordsStoppingCriteria([keyword], tokenizer, torch.tensor([[1, 5, 6]]))
    steps = range(1, len(ids) + 1)
    stopped = next((n for n in steps if stop(torch.tensor([ids[:n]]))[0]), None)
    return stopped, next((n for n in steps if keyword in tokenizer.decode(ids[:n], skip_special_tokens=True)), None)


@pytest.fixture(scope="module", params=["embedded", "parity"])
def tokenizer(request):
    folders = {"embedded": SHAPES, "parity": PARITY15 / "checkpoint"}
    return load_tokenizer(folders[request.param])


def test_every_whole_word_stops_in_every_context(tokenizer):
    words = [piece[1:] for piece in tokenizer.get_vocab() if piece.startswith("▁") and piece[1:].isalpha()]
    for number, word in enumerate(sorted(words)[:: max(1, len(words) // 40)]):
        for keyword in (word, f"{word}:"):
            ids = tokenizer(CONTEXTS[number % len(CONTEXTS)] + keyword + " and more").input_ids[1:]
            stopped, expected = first_step(tokenizer, keyword, ids)
            assert stopped == expected is not None, (keyword, tokenizer.convert_ids_to_tokens(ids))


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    keyword=st.text(st.sampled_from("ab #:\n\u00e9\u20ac\U0001f600USER"), min_size=1, max_size=6),
    before=st.sampled_from(CONTEXTS),
    behind=st.sampled_from(["", "x", " x", "\n"]),
)
def test_stopping_agrees_with_decoding_everything(tokenizer, keyword, before, behind):
    stopped, expected = first_step(tokenizer, keyword, tokenizer(before + keyword + behind).input_ids[1:])
    assert stopped == expected


def test_a_step_decodes_a_few_ids_however_long_the_answer(monkeypatch):
    lengths, decode = [], Words.decode
    monkeypatch.setattr(Words, "decode", lambda self, ids, **more: lengths.append(len(ids)) or decode(self, ids))
    stop = KeywordsStoppingCriteria(["##", "USER:"], Words(), torch.tensor([[1, 35]]))
    stop(torch.full((1, 4000), 97))
    assert sum(lengths) <= 14


def test_an_empty_keyword_is_refused():
    with pytest.raises(ValueError, match="empty one"):
        KeywordsStoppingCriteria(["##", ""], Words(), torch.tensor([[1]]))


@pytest.mark.parametrize("name", sorted(conv_templates))
def test_every_template_has_something_to_stop_at(name):
    KeywordsStoppingCriteria([conv_templates[name].stop_string], Words(), torch.tensor([[1]]))


def test_llavas_own_call_is_for_one_row_and_gives_a_bool():
    stop = KeywordsStoppingCriteria(["##"], Words(), codes("a#", "b#"))
    rows = codes("b#x##", "a#xxx")
    assert stop.call_for_batch(rows[:1], None) is True and stop.call_for_batch(rows[1:], None) is False
    assert stop.call_for_batch(rows, None) is False
    stop = KeywordsStoppingCriteria(["b#"], Words(), codes("a#", "b#"))
    assert stop.call_for_batch(codes("b#"), None) is False  # the prompt of the second row
