"""Prompt templates against the strings models were trained on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from PIL import Image

from llava.conversation import (
    Conversation,
    SeparatorStyle,
    conv_templates,
    conversation_mode,
    default_conversation,
    get_conversation,
)

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def dialogue(name: str, *texts: str | None) -> Conversation:
    conv = get_conversation(name)
    for i, text in enumerate(texts):
        conv.append_message(conv.roles[i % 2], text)
    return conv


def test_every_template_is_there():
    assert set(conv_templates) == set(
        "default v0 v1 vicuna_v1 llama_2 mistral_instruct chatml_direct mistral_direct plain v0_plain llava_v0 v0_mmtag "
        "llava_v1 v1_mmtag llava_llama_2 mpt llava_llama_3 qwen_1_5 qwen_2 llava_mistral_instruct".split()
    )
    assert conv_templates["v1"] is conv_templates["vicuna_v1"] is default_conversation


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("vicuna_v1", SYSTEM + " USER: a ASSISTANT: b</s>USER: c ASSISTANT:"),
        ("llava_v0", SYSTEM.replace("user", "human") + "###Human: a###Assistant: b###Human: c###Assistant:"),
        ("plain", "a\nb\nc\n"),
        ("mistral_instruct", "[INST] a [/INST] b </s>[INST] c [/INST]"),
        (
            "chatml_direct",
            "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\na<|im_end|><|im_start|>assistant\nb<|im_end|>"
            "<|im_start|>user\nc<|im_end|><|im_start|>assistant\n",
        ),
        (
            "qwen_1_5",
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
            "<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "llava_llama_3",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision assistant. "
            "You are able to understand the visual content that the user provides, and assist the user with a variety of tasks "
            "using natural language.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nc"
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
    ],
)
def test_two_turns_and_an_open_slot(name, prompt):
    assert dialogue(name, "a", "b", "c", None).get_prompt() == prompt


def test_llama_2_puts_the_system_text_into_the_first_instruction_only():
    prompt = dialogue("llava_llama_2", "a", "b", "c", None).get_prompt()
    system = conv_templates["llava_llama_2"].system
    assert prompt == f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\na [/INST] b </s><s>[INST] c [/INST]"


def test_llama_2_must_begin_with_the_user():
    with pytest.raises(ValueError, match="USER"):
        dialogue("llama_2", "").get_prompt()


def test_v0_brings_its_example():
    conv = get_conversation("default")
    assert conv.offset == 2 and conv.get_prompt().count("###") == 3
    assert "renewable" in conv.get_prompt()


def test_picture_of_the_first_turn_goes_to_the_front():
    picture = Image.new("RGB", (4, 4))
    assert (
        dialogue("vicuna_v1", ("what? <image>", picture, "Pad"), None)
        .get_prompt()
        .endswith(" USER: <image>\nwhat? ASSISTANT:")
    )
    assert (
        dialogue("v1_mmtag", ("what? <image>", picture, "Pad"), None)
        .get_prompt()
        .endswith(" USER: <Image><image></Image> ASSISTANT: Received.</s>USER: what? ASSISTANT:")
    )


def test_a_copy_does_not_share_its_turns():
    conv = get_conversation("vicuna_v1")
    other = conv.copy()
    other.append_message("USER", "a")
    assert conv.messages == [] == conv_templates["vicuna_v1"].messages


def test_images_and_chatbot():
    conv = dialogue("vicuna_v1", ("hi <image>", Image.new("RGB", (2000, 1000)), "Default"), "yes")
    assert conv.get_images(return_pil=True)[0].size == (1344, 672)
    [[question, reply]] = conv.to_gradio_chatbot()
    assert question.startswith("<img src") and question.endswith("hi") and reply == "yes"
    assert conv.dict()["messages"] == [["USER", "hi <image>"], ["ASSISTANT", "yes"]]


@pytest.mark.parametrize(("mode", "size"), [("Pad", (200, 200)), ("Resize", (336, 336)), ("Crop", (200, 100))])
def test_process_image(mode, size):
    assert get_conversation("v1").process_image(Image.new("RGB", (200, 100)), mode, return_pil=True).size == size


def test_unknown_names_say_what_there_is():
    with pytest.raises(ValueError, match="did you mean 'vicuna_v1'"):
        get_conversation("vicuna1")
    with pytest.raises(ValueError, match="'Resize'"):
        get_conversation("v1").process_image(Image.new("RGB", (2, 2)), "resize")


@pytest.mark.parametrize(
    ("model", "mode"),
    [
        ("llava-llama-2-13b", "llava_llama_2"),
        ("llava-v1.6-mistral-7b", "mistral_instruct"),
        ("llava-v1.6-34b", "chatml_direct"),
        ("llama3-llava-next-8b", "llava_llama_3"),
        ("llava-next-interleave-qwen-7b", "qwen_1_5"),
        ("LLaVA-v1.5-7b", "llava_v1"),
        ("llava-mpt", "mpt"),
        ("llava-7b", "llava_v0"),
    ],
)
def test_mode_by_model_name(model, mode):
    assert conversation_mode(model) == mode


def test_stop_string():
    assert get_conversation("v1").stop_string == "</s>"
    assert get_conversation("v0").stop_string == "###"
    assert get_conversation("qwen_1_5").stop_string == "<|im_end|>"
    assert get_conversation("llava_llama_3").stop_string == "<|eot_id|>"
    assert get_conversation("mistral_instruct").stop_string == "</s>"
    assert get_conversation("plain").sep_style is SeparatorStyle.PLAIN


@pytest.mark.parametrize("config", [{"conv_mode": "vicuna_v1"}, SimpleNamespace(conv_mode="vicuna_v1")])
def test_the_template_belongs_to_the_checkpoint(config):
    """A caller's wish, then the config, then the name."""
    assert conversation_mode("llava-v1.6-mistral-7b", config) == "vicuna_v1"
    assert conversation_mode("llava-v1.6-mistral-7b", config, "plain") == "plain"
    assert conversation_mode("llava-v1.6-mistral-7b", {"conv_mode": None}) == "mistral_instruct"
    assert conversation_mode("llava-v1.6-mistral-7b", SimpleNamespace(), None) == "mistral_instruct"


def test_the_models_type_where_its_name_says_nothing():
    assert conversation_mode("llava-next-72b", {"model_type": "llava_qwen"}) == "qwen_1_5"
    assert conversation_mode("mine", SimpleNamespace(model_type="llava_mistral")) == "mistral_instruct"
    assert conversation_mode("llava-v1.5-7b", {"model_type": "llava_llama"}) == "llava_v1"


@pytest.mark.parametrize("mode", ["vicuna1", 5, ["v1"]])
def test_an_unknown_template_is_refused_wherever_it_is_named(mode):
    with pytest.raises(ValueError, match="is unknown"):
        conversation_mode("llava", {"conv_mode": mode})
    with pytest.raises(ValueError, match="is unknown"):
        conversation_mode("llava", {"conv_mode": "v1"}, mode)


@pytest.mark.parametrize("name", sorted(conv_templates))
def test_an_empty_answer_is_written_as_an_answer(name):
    """What follows an earlier answer is the same whether that answer is empty or not."""
    prompts = []
    for answer in ("", "red"):
        dialogue = get_conversation(name)
        for text in ("What?", answer, "Why?", None):
            dialogue.append_message(dialogue.roles[len(dialogue.messages) % 2], text)
        prompts.append(dialogue.get_prompt())
    assert prompts[0] == prompts[1].replace("red", "", 1)
