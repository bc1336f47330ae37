"""Stock models as people use them: threads, training, adapters, video, decoders alone, hosts of one's own, and mistakes."""

from __future__ import annotations

import copy
import inspect
import random
import threading
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from PIL import Image
from torch import Tensor
from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, TextIteratorStreamer
from transformers.cache_utils import DynamicCache
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from llava import model_cost, reduced
from llava.model.hosts import Host, kept_grids, model_trace
from tests.model.hosts.test_stock import answers, logits, steps
from tests.model.hosts.worlds import END, IMAGE, SOME, START, TEXT, VIDEO, build, inputs_of, text_config

FAMILIES = [LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM]


@pytest.fixture(scope="module")
def llava() -> tuple[Any, dict[str, Any]]:
    model = build("llava")
    return model, inputs_of("llava", model, SOME)


# ------------------------------------------------------------------------------------------------------------- who sees it


def test_a_thread_started_inside_the_block_is_under_its_plan(llava):
    model, inputs = llava
    wanted, stock, got = logits(model, inputs, "fastv@2:2"), logits(model, inputs), {}

    def run(name: str, plan: str | None = None) -> None:
        got[name] = logits(model, inputs, plan)

    with reduced(model, "fastv@2:2"):
        for arguments in (("plan",), ("own", "full")):
            thread = threading.Thread(target=run, args=arguments)
            thread.start()
            thread.join()
    assert torch.equal(got["plan"], wanted) and torch.equal(got["own"], stock)


def test_a_thread_that_could_be_under_several_plans_is_told(llava):
    model, inputs = llava
    errors: list[str] = []
    opened, close = threading.Event(), threading.Event()

    def hold() -> None:
        with reduced(model, "divprune:3"):
            opened.set()
            close.wait()

    def run() -> None:
        try:
            model(**inputs)
        except ValueError as error:
            errors.append(str(error))

    holder, other = threading.Thread(target=hold), threading.Thread(target=run)
    with reduced(model, "fastv@2:2"):
        holder.start()
        opened.wait()
        other.start()
        other.join()
        close.set()
        holder.join()
    assert len(errors) == 1 and "several plans" in errors[0]


def test_threads_with_plans_of_their_own(llava):
    model, inputs = llava
    plans = ["fastv@2:2", "divprune:3", "fastv@1:5", "full"] * 2
    wanted, got = {plan: logits(model, inputs, plan) for plan in plans}, {}

    def run(number: int) -> None:
        for _ in range(3):
            got.setdefault(number, []).append(logits(model, inputs, plans[number]))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(plans))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (
        all(torch.equal(out, wanted[plans[number]]) for number, outs in got.items() for out in outs) and len(got) == 8
    )
    assert "forward" not in model.__dict__


class _Numbers:
    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(str(int(number)) for number in ids) + " "


def test_a_streamer_in_a_thread(llava):
    model, inputs = llava
    row = {key: value[:1] for key, value in inputs.items()}
    wanted = answers(model, row, "divprune:3", new=5).sequences[0, -5:].tolist()
    streamer = TextIteratorStreamer(_Numbers(), skip_prompt=True)  # pyright: ignore[reportArgumentType]
    with reduced(model, "divprune:3"):
        options = {**row, "max_new_tokens": 5, "do_sample": False, "streamer": streamer}
        thread = threading.Thread(target=model.generate, kwargs=options)
        thread.start()
        text = "".join(streamer)
        thread.join()
    assert [int(word) for word in text.split()] == wanted


# ---------------------------------------------------------------------------------------------------------------- training


def _labels(inputs: dict[str, Any]) -> Tensor:
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -3:] = inputs["input_ids"][:, -3:]
    return labels


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_neither_loss_nor_gradients(reentrant):
    results = []
    for checkpoint in (False, True):
        model = build("llava").train()
        if checkpoint:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            model.enable_input_require_grads()
        inputs = inputs_of("llava", model, SOME)
        with reduced(model, "divprune:8+fastv@2:3"):
            loss = model(**inputs, labels=_labels(inputs), use_cache=False).loss
            loss.backward()
        results.append((loss.detach(), [p.grad for p in model.model.language_model.layers.parameters()]))
    (loss, grads), (again, others) = results
    assert torch.equal(loss, again) and all(torch.equal(a, b) for a, b in zip(grads, others))
    assert any(grad.abs().sum() > 0 for grad in grads)


def test_what_is_taught_never_decides_what_is_kept(llava):
    """The loss is that of masking, and evidence ends where the answer begins."""
    model, inputs = llava
    row = {key: value[:1] for key, value in inputs.items()}
    labels, kept = _labels(row), []
    for answer in (torch.tensor([50, 51, 52]), torch.tensor([90, 12, 3])):
        taught = {**row, "input_ids": row["input_ids"].clone()}
        taught["input_ids"][0, -3:] = answer
        with torch.no_grad(), reduced(model, "fastv@2:4"):
            loss = model(**taught, labels=torch.where(labels != -100, taught["input_ids"], labels)).loss
            kept.append(model_trace(model)[0].kept.tolist())
        with torch.no_grad(), reduced(model, "fastv@2:4,place=mask"):
            masked = model(**taught, labels=torch.where(labels != -100, taught["input_ids"], labels)).loss
        torch.testing.assert_close(loss, masked, rtol=0, atol=5e-6)
    assert kept[0] == kept[1]


def test_merging_in_a_checkpointed_layer_is_refused():
    model = build("llava").train()
    model.gradient_checkpointing_enable()
    inputs = inputs_of("llava", model, SOME)
    with reduced(model, "pact@2:50%"), pytest.raises(ValueError, match="pact@2.* checkpointing runs twice"):
        model(**inputs, use_cache=False)


def test_under_an_adapter(llava):
    peft = pytest.importorskip("peft")
    model, inputs = copy.deepcopy(llava[0]), llava[1]
    wanted = logits(model, inputs, "fastv@2:2")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=True)
    adapted = peft.get_peft_model(model, config).eval()
    torch.testing.assert_close(logits(adapted, inputs, "fastv@2:2"), wanted, rtol=0, atol=1e-6)
    assert model_trace(adapted)[0].stage.layer == 2


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl", "smolvlm", "gemma3"])
@pytest.mark.parametrize("plan", ["fastv@2:2", "divprune:3"])
def test_offloaded_drafted_and_encoded_beforehand(name, plan):
    model = build(name)
    inputs = inputs_of(name, model, SOME[:1])
    wanted = answers(model, inputs, plan, output_logits=False).sequences
    assert torch.equal(answers(model, inputs, plan, output_logits=False, prompt_lookup_num_tokens=2).sequences, wanted)
    asked = {key: value for key, value in inputs.items() if key in ("pixel_values", "image_grid_thw")}
    rest = {key: value for key, value in inputs.items() if key != "pixel_values"}
    with torch.no_grad(), reduced(model, plan):
        encoded = {"image": model.model.get_image_features(**asked)}
        if "mm_encoder_outputs" in inspect.signature(model.forward).parameters:
            assert torch.equal(model(**rest, mm_encoder_outputs=encoded).logits, model(**inputs).logits)
    away = cpu_offload(copy.deepcopy(model), execution_device=torch.device("cpu"))
    assert torch.equal(answers(away, inputs, plan, output_logits=False).sequences, wanted)


# ------------------------------------------------------------------------------------------------- decoders alone, others


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoder_alone_is_told_where_its_images_are(family):
    more = {"head_dim": 8} if family is Qwen3ForCausalLM else {}
    model = family(text_config(family.config_class, **more)).eval()
    ids = torch.randint(3, 180, (2, 24), generator=torch.Generator().manual_seed(0))
    visual = torch.zeros_like(ids)
    visual[0, 3:12], visual[1, 2:11] = 1, 1
    stock = model(ids).logits
    with torch.no_grad(), reduced(model, "fastv@2:3"):
        dropped = model(ids, visual=visual).logits
        assert torch.equal(model(ids).logits, stock)  # no picture, nothing to take away
    with torch.no_grad(), reduced(model, "fastv@2:3,place=mask"):
        masked = model(ids, visual=visual).logits
    left = dropped.abs().sum(-1) > 0
    assert (left.sum(1) == 24 - 6).all()
    torch.testing.assert_close(dropped[left], masked[left], rtol=0, atol=2e-5)
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    with reduced(model, "divprune:3"):
        cached = model.generate(ids, visual=visual, **options)
        again = model.generate(ids, visual=visual, use_cache=False, **options)
        beams = model.generate(ids, visual=visual, num_beams=2, **options)
    assert torch.equal(cached, again) and beams.shape == cached.shape
    base = model.model
    with torch.no_grad(), reduced(base, "fastv@2:3"):
        states = base(inputs_embeds=base.embed_tokens(ids), visual=visual).last_hidden_state
    torch.testing.assert_close(model.lm_head(states)[left], dropped[left], rtol=0, atol=1e-6)


def test_a_host_of_ones_own(llava):
    """A family that is not known works through a description, the same as the known one."""
    model, inputs = copy.deepcopy(llava[0]), llava[1]
    model.config.model_type = "newcomer"
    with pytest.raises(ValueError, match="'newcomer' of LlavaForConditionalGeneration is no known host"):
        with reduced(model, "fastv@2:2"):
            pass
    own = Host("newcomer", image_token=IMAGE, core="model", language_model="language_model", tower="vision_tower")
    for plan in ("fastv@2:2", "divprune:3", "fastervlm:3"):
        with torch.no_grad(), reduced(model, plan, host=own):
            assert torch.equal(model(**inputs).logits, logits(llava[0], inputs, plan))


# ------------------------------------------------------------------------------------------------------------------- video


def _video(name: str, model: Any) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(3)
    if name == "llava_onevision":
        pixels = torch.randn(1, 3, 3, 28, 28, generator=draw)
        with torch.no_grad():
            tokens = model.model.get_video_features(pixels).pooler_output.shape[1]
        tokens += tokens % 3 == 0  # the end of the video, which some versions put behind the features
        ids = torch.tensor([[1, 5] + [VIDEO] * tokens + [33, 44, 55]])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}
    grid = torch.tensor([[3, 4, 8]])
    ids = torch.tensor([[1, 5, 192] + [VIDEO] * 24 + [193, 33, 44, 55]])
    return {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "video_grid_thw": grid,
        "pixel_values_videos": torch.randn(96, 3 * 2 * 49, generator=draw), "mm_token_type_ids": (ids == VIDEO).long() * 2,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "llava_onevision"])
@pytest.mark.parametrize("plan", ["fastv@2:5", "divprune:6", "grid@projected:3", "feather@2:50%"])
def test_video_has_a_time_axis(name, plan):
    model = build(name)
    inputs = _video(name, model)
    cached, again = (steps(answers(model, inputs, plan, use_cache=cache)) for cache in (True, False))
    torch.testing.assert_close(cached, again, rtol=0, atol=5e-5)
    (grid,) = kept_grids(model)
    assert len(grid) == 3 and 0 < grid.sum() < grid.numel()
    if plan.startswith("grid"):  # its budget is shared by the frames
        assert grid.flatten(1).sum(1).tolist() == [1, 1, 1]


# ---------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("tome:4", "tome:4 stands at site='tower'.*divprune"),
        ("downsample:4", "site='pixels'"),
        ("fastv@9:3", "layer=9 of fastv@9:3 is out of range; this model has layers 1..4"),
        ("fastv@2:300", "keep=300 .* exceeds the 16 image tokens"),
        ("cdpruner:3", "relevance=embeddings"),
    ],
)
def test_a_plan_that_the_host_cannot_run(llava, plan, message):
    model, inputs = llava
    stock = logits(model, inputs)
    with pytest.raises(ValueError, match=message):
        logits(model, inputs, plan)
    assert torch.equal(logits(model, inputs), stock) and "forward" not in model.__dict__


def test_no_class_token_names_the_substitute():
    model = build("gemma3")
    with pytest.raises(ValueError, match="no class token; use saliency=mean_attention"):
        logits(model, inputs_of("gemma3", model, SOME), "fastervlm:3")


def test_merging_where_a_token_is_several_features_names_the_form_that_works():
    model = build("qwen2_5_vl")
    inputs = inputs_of("qwen2_5_vl", model, [[(2, 2)]])
    with pytest.raises(ValueError, match="write visionzip@projected"):
        logits(model, inputs, "visionzip:4,saliency=mean_attention")
    assert logits(model, inputs, "visionzip@projected:4,saliency=mean_attention").isfinite().all()


def test_wrong_placeholders(llava):
    model, inputs = llava
    short = {**inputs, "input_ids": inputs["input_ids"].clone()}
    short["input_ids"][short["input_ids"] == IMAGE] = 7
    with pytest.raises(ValueError, match="do not match|placeholders"), torch.no_grad(), reduced(model, "fastv@2:2"):
        encoded = {"image": model.model.get_image_features(inputs["pixel_values"])}
        without = {key: value for key, value in short.items() if key != "pixel_values"}
        model.model(**without, mm_encoder_outputs=encoded)


def test_a_static_cache_is_refused(llava):
    model, inputs = llava
    with pytest.raises(ValueError, match="cannot hold a reduced prompt"):
        answers(model, inputs, "fastv@2:2", cache_implementation="static")


def test_a_reduced_cache_is_not_used_outside_of_its_block(llava):
    model, inputs = llava
    cache = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad(), reduced(model, "divprune:2"):
        model(**inputs, past_key_values=cache, use_cache=True)
        longer = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        model(input_ids=torch.tensor([[9]] * 3), attention_mask=longer, past_key_values=copy.deepcopy(cache))
    with torch.no_grad(), pytest.raises(ValueError, match="go on inside the block"):
        model(input_ids=torch.tensor([[9]] * 3), attention_mask=longer, past_key_values=cache)


def test_an_image_after_a_cached_text_is_refused(llava):
    model, inputs = llava
    row = {key: value[:1] for key, value in inputs.items()}
    with torch.no_grad(), reduced(model, "fastv@2:2"):
        cache = DynamicCache(config=model.config.get_text_config())
        model(input_ids=torch.tensor([[1, 2, 3]]), past_key_values=cache, use_cache=True)
        with pytest.raises(ValueError, match="begin with an empty cache"):
            longer = torch.nn.functional.pad(row["attention_mask"], (3, 0), value=1)
            model(**{**row, "attention_mask": longer}, past_key_values=cache)


@pytest.mark.parametrize("kind", ["gpt2", "qwen3_5_text"])
def test_a_decoder_of_another_kind_is_refused(kind):
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {**TEXT, "head_dim": 8} if kind != "gpt2" else {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 200}
    try:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **small))
    except (KeyError, ValueError):
        pytest.skip(f"this transformers has no {kind}")
    with pytest.raises(ValueError, match="cannot be reduced|no decoder layers"), reduced(model, "fastv@1:2"):
        pass


def test_windows_are_refused_under_a_backend_that_counts_them_in_what_is_left():
    model = build("llava-mistral-window")
    inputs = inputs_of("llava-mistral-window", model, SOME[:1])
    model.config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="layer 0 sees a window of 12.*use 'sdpa' or 'eager'"):
        logits(model, inputs, "divprune:3")


# ------------------------------------------------------------------------------------------------------------ real pictures


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_pictures_of_any_size_by_the_real_image_processor(name):
    """Its processor's grids are those that stages see, row by row of a batch."""
    model = build(name)
    prepare = Qwen2VLImageProcessorPil(
        patch_size=7, merge_size=2, temporal_patch_size=2, min_pixels=196, max_pixels=12544
    )
    draw = random.Random(0)
    pictures = [Image.frombytes("RGB", size, draw.randbytes(3 * size[0] * size[1])) for size in ((90, 60), (50, 100))]
    seen = prepare(images=pictures, return_tensors="pt")
    counts = [int(grid.prod()) // 4 for grid in seen["image_grid_thw"]]
    rows = [[5, START, *[IMAGE] * count, END, 44, 45, 46] for count in counts]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    inputs = {**seen, "input_ids": ids, "attention_mask": (ids != 0).long(), "mm_token_type_ids": (ids == IMAGE).long()}
    answers(model, inputs, "grid@projected:25%", output_logits=False)
    for row, (grid, count) in enumerate(zip(seen["image_grid_thw"].tolist(), counts)):
        (kept,) = kept_grids(model, row)
        assert list(kept.shape) == [grid[0], grid[1] // 2, grid[2] // 2]
        assert kept.sum() == round(count * 0.25)
    visual = [cost.visual_per_layer for cost in model_cost(model)]
    assert visual == [[round(count * 0.25)] * 5 for count in counts]
