"""Properties that every method of the registry must have, at every site it can stand.

A new method is covered by existing: the plans are made from the registry.
"""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from llava.model.engine import prefill
from llava.reduction import get_method, make_stage, method_names, plan_from, reduced, spelled_out
from llava.reduction.apply import reduce_sequence
from llava.reduction.plan import budgets_from, tokens_left
from llava.reduction.views import Views, reduce_images
from tests.reduction.methods.golden import given_tower
from tests.tiny import LAYERS, MIXED, generate, prompt, tiny_model

KEEP = 7


def method(name: str) -> type:
    """The class of a method, whatever its options."""
    return get_method(name.partition(",")[0])


# Every method as it is, and these options of methods, written as in a plan.
WITH_OPTIONS = [
    "fastv,heads=max_head",
    "fastv,heads=adaptive",
    "fastv,heads=weighted_combination,alpha=focus",
    "fastv,diversity=0.5",
    "fastv,rope=false",
    "priortr,rows=last",
    "sparsevlm,recycle=false",
    "himap,rows=image",
    "himap,rows=image,row_normalised=true",
    "text_weighted,text=all",
    "condensation,strategy=fps,heads=1",
    "condensation,strategy=tome",
    "condensation,strategy=dpp",
    "condensation,semantic=0.5",
    "custom_selection,strategy=tome",
    "custom_selection,start=3",
]
IN_DECODER = [name for name in method_names() if "layer" in get_method(name).sites] + WITH_OPTIONS
BUDGETED = [name for name in IN_DECODER if method(name).wants_keep]
BEFORE = [
    (name, site)
    for name in method_names()
    for site in get_method(name).sites
    if site in ("features", "projected", "prompt")
]


def decoder_plan(name: str, keep: int | float = KEEP, layer: int = 2, **options) -> list:
    name, _, written = name.partition(",")
    options |= dict(option.split("=") for option in written.split(",")) if written else {}
    return plan_from(
        f"{name}@{layer}:"
        + ",".join(
            ([str(keep)] if get_method(name).wants_keep else []) + [f"{key}={value}" for key, value in options.items()]
        )
    )


def before_stage(name: str, site: str, keep: int):
    return make_stage(name, site=site, **({"keep": keep} if get_method(name).wants_keep else {}))


def before_the_decoder() -> Views:
    """Three pictures of 6 x 6 tokens, a question about each, and what a tower saw of them."""
    torch.manual_seed(0)
    tokens, words, real = torch.randn(3, 36, 8), torch.randn(3, 4, 8), torch.ones(3, 4, dtype=torch.bool)
    return Views(list(tokens), torch.arange(3), (6, 6), (words, real), tower=given_tower(3, 36, 8))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def batch():
    return prompt(*MIXED)


def logits(model, batch, plan, **options):
    with torch.no_grad(), reduced(model, plan):
        return model(**batch.inputs, **options).logits[:, -1]


def test_no_stage_is_transformers_llama_bit_for_bit(model, batch):
    stock = LlamaForCausalLM(model.config).eval()
    stock.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = stock(inputs_embeds=batch.inputs_embeds, attention_mask=batch.attention_mask).logits
        actual = model(**batch.inputs).logits
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("name", [*BUDGETED, "full"])
def test_keeping_all_is_no_reduction(model, name):
    batch = prompt((5, 24, 9), (3, 24, 6))
    assert torch.equal(logits(model, batch, decoder_plan(name, keep=24)), logits(model, batch, []))


@pytest.mark.parametrize("name", IN_DECODER)
def test_drop_equals_mask_on_the_survivors(model, batch, name):
    kept = {}
    for place in ("drop", "mask"):
        plan = decoder_plan(name, place=place, positions="original")
        kept[place] = logits(model, batch, plan), model.model.last_trace[0].kept
    assert torch.equal(kept["drop"][1], kept["mask"][1])
    torch.testing.assert_close(kept["drop"][0], kept["mask"][0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("name", IN_DECODER)
def test_batch_equals_each_row_alone(model, batch, name, positions):
    plan = decoder_plan(name, positions=positions)
    together, record = logits(model, batch, plan), None
    record = model.model.last_trace[0]
    for row in range(len(MIXED)):
        alone = logits(model, batch.row(row), plan)
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=2e-5)
        if model.model.last_trace:
            chosen = model.model.last_trace[0].kept[0]
            assert torch.equal(record.kept[row][: len(chosen)], chosen)


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("name", IN_DECODER)
def test_cached_decoding_equals_recomputing(model, batch, name, positions):
    with torch.no_grad(), reduced(model, decoder_plan(name, positions=positions)):
        generated = generate(model, batch)
        embeddings, mask = batch.inputs_embeds, batch.attention_mask
        for step in range(generated.shape[1]):
            positions_now = (mask.cumsum(1) - 1).clamp(min=0)
            again = model(
                inputs_embeds=embeddings,
                attention_mask=mask,
                position_ids=positions_now,
                visual=batch.visual,
                sample_seed=batch.sample_seed,
                use_cache=False,
            ).logits[:, -1]
            assert torch.equal(again.argmax(-1), generated[:, step])
            embeddings = torch.cat([embeddings, model.model.embed_tokens(generated[:, step : step + 1])], dim=1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)


@pytest.mark.parametrize("name", IN_DECODER)
def test_beams_in_a_batch_equal_beams_alone(model, batch, name):
    with reduced(model, decoder_plan(name)):
        together = generate(model, batch, num_beams=3)
        for row in range(len(MIXED)):
            assert torch.equal(together[row], generate(model, batch.row(row), num_beams=3)[0])


@pytest.mark.parametrize("name", IN_DECODER)
def test_no_state_survives_a_prefill(model, batch, name):
    plan = decoder_plan(name)
    first = logits(model, batch, plan)
    logits(model, prompt((4, 30, 5), seed=9), plan)
    assert torch.equal(logits(model, batch, plan), first)


@pytest.mark.parametrize("name", IN_DECODER)
def test_two_interleaved_generations_do_not_meet(model, name):
    batches = [prompt((5, 24, 9), seed=3), prompt((2, 30, 4), seed=4)]
    plans = [decoder_plan(name), decoder_plan(name, layer=3)]
    expected = []
    for batch, plan in zip(batches, plans):
        with reduced(model, plan):
            expected.append(generate(model, batch, steps=4))
    caches, tokens = [None, None], [[], []]
    with torch.no_grad():
        for _ in range(4):
            for number in (0, 1):
                with reduced(model, plans[number]):
                    if caches[number] is None:
                        out = model(**batches[number].inputs, use_cache=True)
                    else:
                        out = model(input_ids=tokens[number][-1], past_key_values=caches[number], use_cache=True)
                caches[number] = out.past_key_values
                tokens[number].append(out.logits[:, -1:].argmax(-1))
    for number in (0, 1):
        assert torch.equal(torch.cat(tokens[number], dim=1), expected[number])


@pytest.mark.parametrize("name", IN_DECODER)
def test_selection_is_the_same_under_eager_sdpa_and_with_attentions(model, batch, name):
    plan, kept = decoder_plan(name), []
    for attention, output_attentions in (("sdpa", False), ("eager", False), ("eager", True)):
        model.set_attn_implementation(attention)
        logits(model, batch, plan, output_attentions=output_attentions)
        kept.append(model.model.last_trace[0].kept)
    model.set_attn_implementation("sdpa")
    assert torch.equal(kept[0], kept[1]) and torch.equal(kept[0], kept[2])


@pytest.mark.parametrize("name", IN_DECODER)
def test_text_only_prompt_is_untouched(model, name):
    batch = prompt((12,), (30,))
    assert torch.equal(logits(model, batch, decoder_plan(name)), logits(model, batch, []))
    assert model.model.last_trace == []


@pytest.mark.parametrize("keep", [0, 1, KEEP, 24, 0.25])
@pytest.mark.parametrize("name", BUDGETED)
def test_the_budget_is_kept_for_each_image(model, name, keep):
    if isinstance(keep, int) and keep < method(name).least_keep:
        pytest.skip("refuses to keep so few")
    batch = prompt((5, 24, 9), (4, 24, 3, 24, 5), (20,))
    logits(model, batch, decoder_plan(name, keep=keep))
    record = model.model.last_trace[0]
    each = round(24 * keep) if isinstance(keep, float) else keep
    assert record.after.tolist() == [each, 2 * each, 0]
    for row in record.kept:
        real = row[row >= 0]
        assert torch.equal(real, real.unique())  # ascending, none twice
    assert not record.chosen[record.ledger.visual == 0].any()  # text is never chosen, and never dropped:
    text = model.model.last_rows_per_layer[-1] - model.model.last_visual_per_layer[-1]
    assert text.tolist() == [14, 12, 20]


@pytest.mark.parametrize("name", IN_DECODER)
def test_ledger_counts_what_enters_each_layer(model, batch, name):
    entered = []
    handles = [
        layer.register_forward_pre_hook(lambda module, args: entered.append(args[0].shape[1]))
        for layer in model.model.layers
    ]
    logits(model, batch.row(2), decoder_plan(name))
    for handle in handles:
        handle.remove()
    assert len(entered) == LAYERS  # every layer ran once
    assert model.model.last_rows_per_layer[:, 0].tolist() == entered


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", IN_DECODER)
def test_half_precision_stays_finite(name, dtype):
    model, batch = tiny_model().to(dtype), prompt(*MIXED)
    batch.inputs_embeds = batch.inputs_embeds.to(dtype)
    assert logits(model, batch, decoder_plan(name)).isfinite().all()


@pytest.mark.parametrize("name", IN_DECODER)
def test_labels_follow_the_ledger(model, batch, name):
    """The loss of a reduced batch, padded and packed, is the mean over all answers of the rows alone."""
    labels = torch.full_like(batch.visual, -100)
    labels[:, -3:] = torch.randint(0, 90, (len(labels), 3), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), reduced(model, decoder_plan(name)):
        together = model(**batch.inputs, labels=labels).loss
        alone = []
        for row in range(len(MIXED)):
            real = batch.attention_mask[row].bool()
            alone.append(model(**batch.row(row).inputs, labels=labels[row : row + 1][:, real]).loss)
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", IN_DECODER)
def test_nothing_is_rounded_in_the_decoder_by_autocast(model, batch, name, monkeypatch):
    """What training in mixed precision keeps and writes, from the same states, is what evaluation does."""

    def under_autocast(*given):
        with torch.autocast("cpu", torch.bfloat16):
            return reduce_sequence(*given)

    expected, kept = logits(model, batch, decoder_plan(name)), model.model.last_trace[0].kept
    monkeypatch.setattr(prefill, "reduce_sequence", under_autocast)
    assert torch.equal(logits(model, batch, decoder_plan(name)), expected)
    assert torch.equal(model.model.last_trace[0].kept, kept)


@pytest.mark.parametrize("name", IN_DECODER)
def test_a_whole_prefill_runs_under_autocast(model, batch, name):
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad(), reduced(model, decoder_plan(name)):
        assert len(generate(model, batch)) == len(MIXED)


@pytest.mark.parametrize(("name", "site"), BEFORE)
def test_nothing_is_rounded_before_the_decoder_by_autocast(name, site):
    views, plan = before_the_decoder(), [before_stage(name, site, 9)]
    expected, (record,) = reduce_images(plan, site, views)
    with torch.autocast("cpu", torch.bfloat16):
        actual, (rounded,) = reduce_images(plan, site, views)
    assert torch.equal(rounded.kept, record.kept)
    assert all(map(torch.equal, actual.tokens, expected.tokens))


@pytest.mark.parametrize("name", IN_DECODER)
def test_gradients_pass_through(name):
    model, batch = tiny_model(), prompt((5, 24, 9), (3, 16, 6))
    batch.inputs_embeds.requires_grad_()
    with reduced(model, decoder_plan(name)):
        model(**batch.inputs, use_cache=False).logits[:, -1].square().sum().backward()
    assert batch.inputs_embeds.grad.abs().sum(-1)[:, -1].gt(0).all()


@pytest.mark.parametrize(("name", "site"), BEFORE)
@pytest.mark.parametrize("keep", [0, 1, 5, 16, 36])
def test_before_the_decoder_the_budget_is_kept(name, site, keep):
    if keep < method(name).least_keep or name == "m3" and keep not in (1, 36):
        pytest.skip("refuses to keep so few, or what is no number of square cells")
    stage, given = before_stage(name, site, keep), before_the_decoder()
    tokens, (words, real), tower = torch.stack(given.tokens), given.question, given.tower
    views, (record,) = reduce_images([stage], site, given)
    reduced_tokens = views.tokens
    kept = record.after.tolist()
    assert [len(image) for image in reduced_tokens] == kept and max(kept) <= stage.reducer.left(36, stage.budget(36))
    if stage.reducer.wants_keep:
        assert kept == [keep] * 3
    one = Views([tokens[1]], torch.arange(1, 2), (6, 6), (words[1:2], real[1:2]), tower=tower.part(slice(1, 2)))
    alone, _ = reduce_images([stage], site, one)
    torch.testing.assert_close(alone.tokens[0], reduced_tokens[1])
    if stage.reducer.wants_keep and keep == 36:
        torch.testing.assert_close(torch.stack(reduced_tokens), tokens)


def test_images_of_different_length_are_reduced_each_by_itself():
    images = [torch.randn(36, 8), torch.randn(20, 8), torch.randn(36, 8)]
    plan = plan_from("random@prompt:0.5")
    shorter, (record,) = reduce_images(plan, "prompt", Views(images, torch.arange(3), (6, 6)))
    assert shorter.lengths == [18, 10, 18] == record.after.tolist()
    assert torch.equal(shorter.tokens[1], images[1][record.kept[1][record.kept[1] >= 0]])
    with pytest.raises(ValueError, match="these 20 tokens have none"):
        reduce_images(plan_from("grid@prompt:4"), "prompt", Views(images, torch.arange(3), (6, 6)))


def test_several_stages_compose(model, batch):
    with torch.no_grad(), reduced(model, "fastv@1:0.5+random@3:0.5+blind@5"):
        model(**batch.row(0).inputs)
    assert model.model.last_visual_per_layer[:, 0].tolist() == [24, 12, 12, 6, 6, 0]
    origins = model.model.last_trace[1].kept_origins(0, text=False)
    first = model.model.last_trace[0].kept_origins(0, text=False)
    assert set(origins.tolist()) < set(first.tolist())  # in the numbering of the whole prompt


def test_every_plan_file_loads_and_every_method_has_one():
    from pathlib import Path

    files = sorted((Path(__file__).parents[2] / "configs" / "methods").rglob("*.yaml"))
    assert [file.stem for file in files] == method_names()
    for file in files:
        assert {stage.name for stage in plan_from(file)} == {file.stem}
        for label, plan in budgets_from(file).items():
            assert same_stages(plan, plan_from(f"{file.stem}:{label}")), (
                f"{file.stem}:{label} is not what the file says"
            )


def same_stages(one: list, other: list) -> bool:
    """Whether two plans leave as many tokens, of 576 and in 32 layers, by the same methods at the same places."""
    spelled = [spelled_out(plan, 32) for plan in (one, other)]
    places = [[(stage.name, stage.site, stage.layer) for stage in plan] for plan in spelled]
    return places[0] == places[1] and tokens_left(one, 576, 32) == tokens_left(other, 576, 32)
