"""LLaVA's training: the projector first, then instruction tuning of all weights or of a LoRA.

    python -m llava.train.train --model_name_or_path lmsys/vicuna-7b-v1.5 --version plain --tune_mm_mlp_adapter True \\
        --vision_tower openai/clip-vit-large-patch14-336 --data_path captions.json --image_folder images --output_dir out

The flags are LLaVA's and those of transformers' Trainer, and one for every reduction knob: with `--reduction fastv@2:64`
the model learns from the visual tokens that this plan keeps for the prompt, chosen as in generation without the answer, and
is saved with the plan in its config. A command that was stopped resumes from its last checkpoint when it is given again.
What lies in the first two folders below is loaded with `load_pretrained_model(folder, model_base)`.

=======================  ================================================================================================
`--tune_mm_mlp_adapter`  only the projector learns; saved are `mm_projector.bin` and config.json
`--lora_enable`          a LoRA and the projector learn; saved are the adapter, `non_lora_trainables.bin` and config.json
neither                  all but the tower learns, or with `--freeze_backbone` projector and head; a whole model is saved
=======================  ================================================================================================
"""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from transformers import HfArgumentParser, PreTrainedTokenizerBase, set_seed
from transformers import TrainingArguments as TrainerArguments

from llava.absent import absent_names
from llava.cli.flags import Help, Listing, add_reduction_flags, reduction_kwargs
from llava.model.language_model.llava_family import LlavaFamilyForCausalLM
from llava.reduction import did_you_mean, plan_from
from llava.utils import exit_code

from .arguments import DataArguments, ModelArguments, TrainingArguments, asked_for, check_arguments, is_plain
from .assembly import load_model
from .checkpoints import check_whole, last_checkpoint, note_asked, restore_trained
from .data import Collator
from .llava_trainer import LLaVATrainer, LlavaTrainer
from .named_weights import (
    find_all_linear_names,
    get_mm_adapter_state_maybe_zero_3,
    get_peft_state_maybe_zero_3,
    get_peft_state_non_lora_maybe_zero_3,
    maybe_zero_3,
    rank0_print,
    safe_save_model_for_hf_trainer,
    smart_tokenizer_and_embedding_resize,
)
from .records import load_records, padding_id
from .shared import SharedCollator, SharedPictures, require_shareable
from .supervised import (
    DataCollatorForSupervisedDataset,
    LazySupervisedDataset,
    make_supervised_data_module,
    preprocess,
    preprocess_llama_2,
    preprocess_mpt,
    preprocess_multimodal,
    preprocess_plain,
    preprocess_v1,
)
from .trainable import choose_trained

__all__ = [
    "DataArguments",
    "DataCollatorForSupervisedDataset",
    "LLaVATrainer",
    "LazySupervisedDataset",
    "ModelArguments",
    "TrainingArguments",
    "find_all_linear_names",
    "get_mm_adapter_state_maybe_zero_3",
    "get_peft_state_maybe_zero_3",
    "get_peft_state_non_lora_maybe_zero_3",
    "main",
    "make_supervised_data_module",
    "maybe_zero_3",
    "parse",
    "parser",
    "preprocess",
    "preprocess_llama_2",
    "preprocess_mpt",
    "preprocess_multimodal",
    "preprocess_plain",
    "preprocess_v1",
    "rank0_print",
    "safe_save_model_for_hf_trainer",
    "smart_tokenizer_and_embedding_resize",
    "train",
]

logger = logging.getLogger(__name__)
__getattr__ = absent_names("llava.train.train")  # by name, since it may run as __main__

FAILURES = (ValueError, OSError, ImportError, FloatingPointError)
STOPPED = "stopped; the same command resumes from the last checkpoint"

# Flags of LLaVA's or older transformers' scripts that are gone, and what to do instead.
GONE = {
    "--group_by_length": "give --train_sampling_strategy group_by_length, or --group_by_modality_length True",
    "--mpt_attn_impl": "MPT models are not supported",
    "--overwrite_output_dir": "a run resumes where its output_dir has checkpoints; give another folder to start again",
    "--save_safetensors": "leave it out: whole models and adapters are saved so",
    "--logging_dir": "set the environment variable TENSORBOARD_LOGGING_DIR",
}


def train(
    model_args: ModelArguments | None = None,
    data_args: DataArguments | None = None,
    args: TrainingArguments | None = None,
    knobs: dict[str, Any] | None = None,
    *,
    attn_implementation: str | None = None,
    prepare: Callable[[LlavaFamilyForCausalLM, PreTrainedTokenizerBase], None] | None = None,
) -> LlavaTrainer:
    """Trains, saves the model in `args.output_dir`, and returns the trainer that holds it.

    Without arguments it reads the command line, as LLaVA's does. knobs: reduction knobs, e.g. `{"reduction": "fastv@2:64"}`.
    attn_implementation: "eager", "sdpa" or "flash_attention_2" (default: what transformers chooses). prepare: called with model and tokenizer once they
    are loaded, for what a command line cannot say, such as an `encode_images` of one's own. A folder with checkpoints is resumed from the newest
    complete one, unless `args.resume_from_checkpoint` names another one or says "False"; a warning names what it was asked for that differs.

    Raises ValueError for flags that contradict each other or the model and for bad records (named), ImportError naming
    what to install, FloatingPointError naming step and checkpoint when the loss is not a number, OSError naming what
    cannot be written and the checkpoint that is complete.
    """
    if model_args is None and data_args is None and args is None:
        model_args, data_args, args, knobs = parse()
    if model_args is None or data_args is None or args is None:
        raise ValueError("give model_args, data_args and args, or none of them to read the command line")
    check_arguments(model_args, args)
    if args.cache_dir:
        huggingface_hub.constants.HF_HUB_CACHE = args.cache_dir
    set_seed(args.seed)
    knobs = dict(knobs or {})
    if knobs.get("reduction"):
        # The saved config has to say what a YAML file said, wherever that is.
        knobs["reduction"] = "+".join(map(str, plan_from(knobs["reduction"])))
    tokenizer, model, image_processor = load_model(model_args, args, knobs, attn_implementation)
    if prepare is not None:
        prepare(model, tokenizer)
    dataset = load_records(model, tokenizer, image_processor, model_args, data_args, args)
    if data_args.share_pictures:
        require_shareable(model.get_model().plan(), args.world_size, bool(args.gradient_checkpointing))
        dataset = SharedPictures(dataset)
    config = model.config
    config.tune_mm_mlp_adapter = model_args.tune_mm_mlp_adapter
    config.freeze_mm_mlp_adapter = model_args.freeze_mm_mlp_adapter
    config.mm_projector_lr = args.mm_projector_lr
    if not is_plain(model_args.version):
        config.conv_mode = model_args.version  # the template that the weights were trained with
    model, layout = choose_trained(model, model_args, args)
    if args.lora_weight_path:
        restore_trained(model, Path(args.lora_weight_path))
    if args.ddp_find_unused_parameters is None and not all(dataset.has_image):
        args.ddp_find_unused_parameters = True  # a batch of texts does not pass the projector
    collator = SharedCollator if data_args.share_pictures else Collator
    trainer = LlavaTrainer(
        layout=layout,
        tokenizer=tokenizer,
        model=model,
        args=args,
        train_dataset=dataset,
        data_collator=collator(padding_id(tokenizer)),
    )
    begun = _resumed_from(args)
    if trainer.is_world_process_zero():
        note_asked(str(args.output_dir), asked_for(model_args, data_args, args, knobs), begun)
    trainer.train(resume_from_checkpoint=begun)
    trainer.save_trained()
    return trainer


def _resumed_from(args: TrainingArguments) -> str | None:
    """The checkpoint that a run resumes from."""
    asked = str(args.resume_from_checkpoint or "")
    if asked.lower() == "false":
        return None
    if asked and asked.lower() != "true":
        check_whole(asked)
        return asked
    newest = last_checkpoint(str(args.output_dir))
    if newest is None:
        return None
    logger.info("resuming from %s", newest)
    return str(newest)


def parser() -> HfArgumentParser:
    """LLaVA's flags, Trainer's, and those of reduction."""
    flags = HfArgumentParser(
        (ModelArguments, DataArguments, TrainingArguments),  # pyright: ignore[reportArgumentType]  dataclasses are what it takes
        prog="llava train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    own = {
        name for kind in (ModelArguments, DataArguments, TrainingArguments) for name in inspect.get_annotations(kind)
    }
    for action in flags._actions:
        if action.dest not in ("help", *own):
            action.help = argparse.SUPPRESS
    listing = "list the Trainer's own flags as well, such as --learning_rate"
    flags.add_argument("--help-trainer", action=Listing, listed=trainer_parser, help=listing)
    add_reduction_flags(flags)
    return flags


def trainer_parser() -> HfArgumentParser:
    """The flags of transformers' Trainer alone, without those to which a training here gives its own meaning."""
    flags = HfArgumentParser(TrainerArguments, add_help=False, formatter_class=Help)  # pyright: ignore[reportArgumentType]  a dataclass is what it takes
    own = inspect.get_annotations(TrainingArguments)
    for action in flags._actions:
        if action.dest in own:
            action.help = argparse.SUPPRESS
    return flags


def parse(
    arguments: Sequence[str] | None = None,
) -> tuple[ModelArguments, DataArguments, TrainingArguments, dict[str, Any]]:
    """The command line as `train` takes it; ValueError for an unknown flag says what is meant or what to do instead."""
    flags = parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    model_args, data_args, args, rest, unknown = flags.parse_args_into_dataclasses(
        words, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        flag = unknown[0].split("=")[0]
        known = [option for action in flags._actions for option in action.option_strings]
        raise ValueError(f"{flag} is unknown{did_you_mean(flag, known)}" + (f"; {GONE[flag]}" if flag in GONE else ""))
    return model_args, data_args, args, reduction_kwargs(rest)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input or a loss that is not a number, 130 when stopped by Ctrl-C."""
    return exit_code(lambda: train(*parse(arguments)), FAILURES, STOPPED)


if __name__ == "__main__":
    sys.exit(main())
