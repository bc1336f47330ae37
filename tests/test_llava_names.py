"""Every public name of LLaVA v1.2.2 is here, or its import says what to use instead."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from llava.absent import MODULES, NAMES

OFFICIAL = {
    "llava": "LlavaLlamaForCausalLM",
    "llava.constants": "CONTROLLER_HEART_BEAT_EXPIRATION WORKER_HEART_BEAT_INTERVAL LOGDIR IGNORE_INDEX IMAGE_TOKEN_INDEX "
    "DEFAULT_IMAGE_TOKEN DEFAULT_IMAGE_PATCH_TOKEN DEFAULT_IM_START_TOKEN DEFAULT_IM_END_TOKEN IMAGE_PLACEHOLDER",
    "llava.conversation": "SeparatorStyle Conversation conv_templates default_conversation conv_vicuna_v0 conv_vicuna_v1 "
    "conv_llama_2 conv_llava_llama_2 conv_mpt conv_llava_plain conv_llava_v0 conv_llava_v0_mmtag conv_llava_v1 "
    "conv_llava_v1_mmtag conv_mistral_instruct conv_chatml_direct",
    "llava.mm_utils": "select_best_resolution resize_and_pad_image divide_to_patches get_anyres_image_grid_shape "
    "process_anyres_image load_image_from_base64 expand2square process_images tokenizer_image_token "
    "get_model_name_from_path KeywordsStoppingCriteria",
    "llava.utils": "server_error_msg moderation_msg handler build_logger StreamToLogger disable_torch_init "
    "violates_moderation pretty_print_semaphore",
    "llava.model": "LlavaLlamaForCausalLM LlavaConfig LlavaMptForCausalLM LlavaMptConfig LlavaMistralForCausalLM "
    "LlavaMistralConfig",
    "llava.model.builder": "load_pretrained_model",
    "llava.model.llava_arch": "LlavaMetaModel LlavaMetaForCausalLM unpad_image",
    "llava.model.language_model.llava_llama": "LlavaConfig LlavaLlamaModel LlavaLlamaForCausalLM",
    "llava.model.language_model.llava_mistral": "LlavaMistralConfig LlavaMistralModel LlavaMistralForCausalLM",
    "llava.model.multimodal_encoder.builder": "build_vision_tower",
    "llava.model.multimodal_encoder.clip_encoder": "CLIPVisionTower CLIPVisionTowerS2",
    "llava.model.multimodal_projector.builder": "build_vision_projector IdentityMap SimpleResBlock",
    "llava.eval.run_llava": "image_parser load_image load_images eval_model",
    "llava.train.train": "ModelArguments DataArguments TrainingArguments maybe_zero_3 get_peft_state_maybe_zero_3 "
    "get_peft_state_non_lora_maybe_zero_3 get_mm_adapter_state_maybe_zero_3 find_all_linear_names "
    "safe_save_model_for_hf_trainer smart_tokenizer_and_embedding_resize preprocess_multimodal preprocess_llama_2 "
    "preprocess_v1 preprocess_mpt preprocess_plain preprocess LazySupervisedDataset DataCollatorForSupervisedDataset "
    "make_supervised_data_module train rank0_print local_rank",
    "llava.train.train_mem": "train",
    "llava.train.llava_trainer": "maybe_zero_3 get_mm_adapter_state_maybe_zero_3 split_to_even_chunks "
    "get_modality_length_grouped_indices get_length_grouped_indices LengthGroupedSampler LLaVATrainer",
    "llava.eval.model_vqa": "split_list get_chunk eval_model",
    "llava.eval.model_vqa_loader": "split_list get_chunk CustomDataset collate_fn create_data_loader eval_model",
    "llava.eval.model_vqa_science": "split_list get_chunk eval_model",
    "llava.eval.model_vqa_mmbench": "split_list get_chunk eval_model is_none get_options",
    "llava.eval.m4c_evaluator": "EvalAIAnswerProcessor TextVQAAccuracyEvaluator STVQAAccuracyEvaluator "
    "STVQAANLSEvaluator TextCapsBleu4Evaluator",
    "llava.eval.eval_pope": "eval_pope",
    "llava.eval.eval_science_qa": "get_args convert_caps get_pred_idx",
    "llava.eval.eval_textvqa": "get_args prompt_processor eval_single",
    "llava.serve.cli": "load_image main",
}
# modules that are absent as a whole
OFFICIAL_MODULES = """
    llava.model.language_model.llava_mpt llava.model.utils llava.model.consolidate llava.model.apply_delta
    llava.model.make_delta llava.eval.eval_gpt_review llava.eval.eval_gpt_review_bench llava.eval.eval_gpt_review_visual
    llava.eval.eval_science_qa_gpt4 llava.eval.eval_science_qa_gpt4_requery llava.eval.qa_baseline_gpt35
    llava.eval.summarize_gpt_review llava.eval.generate_webpage_data_from_table llava.eval.model_qa
    llava.train.train_xformers llava.train.llama_flash_attn_monkey_patch
    llava.train.llama_xformers_attn_monkey_patch llava.serve.controller llava.serve.gradio_web_server
    llava.serve.model_worker llava.serve.register_worker llava.serve.sglang_worker llava.serve.test_message
""".split()
PAIRS = [(module, name) for module, names in OFFICIAL.items() for name in names.split()]


@pytest.mark.parametrize(("module", "name"), PAIRS, ids=[".".join(pair) for pair in PAIRS])
def test_a_name_is_there_or_says_what_to_use(module, name):
    line = f"from {module} import {name}"
    if name in NAMES.get(module, {}):
        with pytest.raises(ImportError, match=f"{name} is not part of llava-condense: .{{20}}"):
            exec(line, {})
    else:
        exec(line, {})


@pytest.mark.parametrize("module", OFFICIAL_MODULES)
@pytest.mark.parametrize("form", ["import {0}", "from {0} import anything", "from {1} import {2}"])
def test_an_absent_module_says_what_to_use(module, form):
    parent, _, last = module.rpartition(".")
    with pytest.raises(ImportError, match=f"{module} is not part of llava-condense: .{{20}}"):
        exec(form.format(module, parent, last), {})


def test_what_is_said_to_be_absent_is():
    assert set(OFFICIAL_MODULES) == set(MODULES)
    assert {(module, name) for module, names in NAMES.items() for name in names} <= set(PAIRS)
    for module, names in NAMES.items():
        there = vars(importlib.import_module(module))
        assert not [name for name in names if name in there]


@pytest.mark.parametrize("module", NAMES)
def test_another_name_is_an_ordinary_error(module):
    imported = importlib.import_module(module)
    assert not hasattr(imported, "no_such_name")
    with pytest.raises(ImportError, match="cannot import name 'no_such_name'"):
        exec(f"from {module} import no_such_name", {})
    exec(f"from {module} import *", {})


def test_a_module_that_nobody_knows_is_an_ordinary_error():
    with pytest.raises(ModuleNotFoundError, match="No module named 'llava.no_such_module'"):
        importlib.import_module("llava.no_such_module")


def test_looking_for_names_costs_no_import():
    code = "import sys, llava, llava.utils; sys.exit('llava.model' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
