"""Every price against torch's own counter of floating-point operations, site by site, within one per cent."""

from __future__ import annotations

import inspect
from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llava.model.language_model.himap_configuration_llama import LlamaConfig
from llava.model.language_model.reducible_llama import ReducibleLlamaForCausalLM
from llava.reduction import Need, get_method, method_names, plan_from, reduced
from llava.reduction.aggregate import CrossAttention
from llava.reduction.cost import Read, decoder_flops, images_of, linear_flops, selector_flops, tower_flops
from llava.reduction.mergers import make_merger
from llava.reduction.methods.anywhere.condensation import Condensation
from llava.reduction.methods.anywhere.merger import TrainedMerger
from llava.reduction.stage import Stage
from llava.reduction.views import Views, reduce_images
from tests.tiny import WIDTH, prompt, tiny_model
from tests.tower import SIDE, seen

TOKENS = 64
DECODER = [
    "fastv@2:16",
    "fastv@2:16,diversity=0.5",
    "himap@2:16",
    "himap@2:16,rows=image",
    "text_weighted@2:16",
    "text_weighted@2:16,text=all",
    "condensation@2:16",
    "condensation@2:16,strategy=tome",
    "condensation@2:16,semantic=0.5",
    "custom_selection@2:16",
    "random@2:16",
    "fastv@2:0",
    "fastv@1:32+himap@3:8",
]

SHAPE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)


def counted(function) -> float:
    # torch's counter does not know the fused attention of a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        function()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def close(price: float, count: float, left_out: float = 0.0) -> bool:
    return abs(price - count) <= 0.01 * count + left_out


@pytest.mark.parametrize("lengths", [(5, TOKENS, 9), (3, TOKENS, 4, 40, 7)])
@pytest.mark.parametrize("text", DECODER)
def test_decoder_and_its_selectors(model, text, lengths):
    """The selectors are what a reduced pass costs beyond its layers; the attention rows are read from the cache's keys."""
    if text.endswith("text=all") and len(lengths) > 3:
        pytest.skip("the price takes the other image's rows for text")
    batch = prompt(lengths)
    with reduced(model, text):
        count = counted(lambda: model(**batch.inputs, use_cache=True, logits_to_keep=1))
    rows = model.model.last_rows_per_layer[:, 0].tolist()
    layers, selected = decoder_flops(model.config, rows), selector_flops(model.model.last_trace, [0], WIDTH)
    assert close(layers + selected, count)
    if len(lengths) == 3:  # by themselves too; of two images the price counts the last row's query twice
        assert abs(selected - (count - layers)) <= 0.01 * selected


@pytest.mark.parametrize("text", ["pyramiddrop@2:16", "pact@2:16", "pact@2:48,unimportant=0.2"])
def test_stages_that_read_the_layer_about_to_run(text):
    """As many key heads as query heads, of which prices know no other."""
    shape = {**vars(tiny_model().config), "num_key_value_heads": 4}
    model = ReducibleLlamaForCausalLM(LlamaConfig(**{key: shape[key] for key in SHAPE})).eval()
    with reduced(model, text):
        count = counted(lambda: model(**prompt((5, TOKENS, 9)).inputs, use_cache=True, logits_to_keep=1))
    layers = decoder_flops(model.config, model.model.last_rows_per_layer[:, 0].tolist())
    selected = selector_flops(model.model.last_trace, [0], WIDTH)
    assert abs(selected - (count - layers)) <= 0.01 * selected


def test_a_dense_pass(model):
    batch = prompt((5, TOKENS, 9))
    count = counted(lambda: model(**batch.inputs, use_cache=True, logits_to_keep=1))
    assert close(decoder_flops(model.config, [78] * 6), count)


def test_layers_of_different_head_counts_and_widths():
    config = LlamaConfig(
        vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=3, head_dim=16,
    )  # fmt: skip
    model = ReducibleLlamaForCausalLM(config).eval()
    ids = torch.randint(3, 90, (1, 30))
    assert close(decoder_flops(config, [30, 30]), counted(lambda: model(input_ids=ids, logits_to_keep=1)))


@pytest.mark.parametrize(
    ("name", "site"),
    [
        (name, site)
        for name in method_names()
        for site in ("features", "projected", "prompt")
        if site in get_method(name).sites
        and name not in ("pool", "m3")  # pooling adds, which torch's counter does not count
        and name != "vscan"  # layer 5 lies beyond this tower
    ],
)
def test_before_the_decoder(name, site):
    check_images(plan_from(f"{name}@{site}:16" if get_method(name).wants_keep else f"{name}@{site}")[0])


@pytest.mark.parametrize("options", ["", ",merge=false", ",saliency=mean_attention"])
@pytest.mark.parametrize("site", ["features", "projected"])
def test_two_layers_of_the_tower(site, options):
    check_images(plan_from(f"vscan@{site}:16,shallow=0,window=4{options}")[0])


@pytest.mark.parametrize(
    "stage",
    [
        f"{name}@{site}:16,saliency=mean_attention{',base=holov' * (name == 'restore')}"
        for name in method_names()
        if "saliency" in inspect.signature(get_method(name)).parameters and name != "vscan"
        for site in ("features", "projected")
        if site in get_method(name).sites
    ]
    + ["restore@projected:16,base=holov"],
)
def test_what_stands_for_the_class_token(stage):
    check_images(plan_from(stage)[0])


READS_TOWER = frozenset({Need.CLS, Need.TOWER, Need.CLIP})
PROJECTED = 48  # the language model's width, which is not the tower's


@pytest.mark.parametrize("kind", ["simple", "question_aware", "fixed_pooling", "cross_attention"])
def test_trained_modules_at_the_features(kind):
    if kind == "cross_attention":
        stage = Stage(Condensation("fps", heads=4, attention=CrossAttention(32, 4)), "features", keep=16)
    else:
        widths = {"d_model": 32} if kind == "simple" else {"d_vision": 32, "d_text": 40, "d_internal": 16}
        stage = Stage(TrainedMerger(module=make_merger(kind, num_heads=4, **widths)), "features", keep=16)
    check_images(stage)


def check_images(stage: Stage) -> None:
    """Two pictures of one word each (what a merger reads of longer questions is left out of its price)."""
    torch.manual_seed(0)
    wide = 32 if stage.site == "features" else PROJECTED
    images, width = list(torch.randn(2, TOKENS, wide)), wide if Need.TEXT in stage.reducer.needs else 40
    question, tower = (torch.randn(2, 1, width), torch.ones(2, 1, dtype=torch.bool)), None
    if stage.reducer.needs & READS_TOWER:
        tower = seen(torch.randn(2, 3, SIDE, SIDE), ["picture"] * 2)
        tower.clip_text(torch.arange(2))  # read once: the passes of the text tower are left out of the price
    records = []

    def run() -> None:
        views = Views(images, torch.arange(2), (8, 8), question, tower=tower)
        records[:] = reduce_images([stage], stage.site, views)[1]

    count = counted(run)
    price = selector_flops(records, range(2), wide, Read(32, [[TOKENS]] * 2))
    # How many rows a pick covers anew is the picture's, of which the price takes a mean
    left_out = {"scope": 0.1, "eadp": 0.15}.get(stage.name, 0.02)
    assert close(price, count, left_out=left_out * count)


def test_only_the_layers_of_the_tower_that_run_and_every_crop_are_counted(llava15):
    tower = llava15.model.get_vision_tower()
    side, patches = tower.config.image_size, tower.num_patches
    assert tower.layers_run < tower.config.num_hidden_layers
    for pixels in (torch.randn(1, 3, side, side), torch.randn(3, 3, side, side)):
        count = counted(partial(tower, pixels))
        assert close(tower_flops(tower.config, len(pixels), [patches + 1] * tower.layers_run), count)


def test_the_projector(llava15):
    projector = llava15.model.get_model().mm_projector
    tokens = torch.randn(1, 50, llava15.model.config.mm_hidden_size)
    assert close(linear_flops(projector, 50), counted(lambda: projector(tokens)))


def test_a_stage_is_priced_by_what_came_in_not_by_what_it_left(model):
    """64 tokens against one query row, and 64 x 64 similarities: what is kept changes neither."""
    batch = prompt((5, TOKENS, 9))
    prices = []
    for keep in (8, 48):
        with reduced(model, f"fastv@2:{keep},diversity=0.5"), torch.no_grad():
            model(**batch.inputs)
        prices.append(selector_flops(model.model.last_trace, [0], WIDTH))
    assert prices[0] == prices[1] == 2 * WIDTH * WIDTH + 2 * 78 * WIDTH + 2 * TOKENS * TOKENS * WIDTH


def test_images_of_one_row_are_counted_one_by_one(model):
    batch = prompt((3, 20, 4, 30, 7))
    with reduced(model, "random@2:8"), torch.no_grad():
        model(**batch.inputs)
    first, second = images_of(model.model.last_trace[0], 0)
    assert (first.rows, first.tokens, first.kept, first.text) == (64, 20, 8, 11)
    assert (second.rows, second.tokens, second.kept, second.text) == (64, 30, 8, 7)
