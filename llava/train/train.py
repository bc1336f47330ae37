"""LLaVA's training: the projector first, then instruction tuning of all weights or of a LoRA.

    python -m llava.train.train --model_name_or_path lmsys/vicuna-7b-v1.5 --version plain --tune_mm_mlp_adapter True \\
        --vision_tower openai/clip-vit-large-patch14-336 --data_path captions.json --image_folder images --output_dir out

The flags are LLaVA's and those of transformers' Trainer, and one for every reduction knob: with `--reduction fastv@2:64`
the model learns with its visual tokens thrown away, and is saved with that plan in its config. A command that was
stopped goes on from its last checkpoint when it is given again.

=======================  ================================================================================================
`--tune_mm_mlp_adapter`  only the projector learns; saved are `mm_projector.bin` and config.json
`--lora_enable`          a LoRA and the projector learn; saved are the adapter, `non_lora_trainables.bin` and config.json
neither                  all but the tower learns, or with `--freeze_backbone` projector and head; a whole model is saved
=======================  ================================================================================================

The first two are loaded with `load_pretrained_model(folder, model_base)`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import torch
from PIL import Image
from transformers import HfArgumentParser, PreTrainedTokenizerBase, set_seed
from transformers import TrainingArguments as TrainerArguments
from transformers.trainer_utils import IntervalStrategy

from llava.cli.flags import add_reduction_flags, reduction_kwargs
from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import SeparatorStyle, get_conversation
from llava.mm_utils import Size, process_images
from llava.model.builder import PROJECTION, UNTRAINED, load_pretrained_model
from llava.model.checkpoint import find_folder, read_json
from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM
from llava.model.llava_arch import load_projector
from llava.reduction import did_you_mean, plan_from
from llava.train.data import Collator, ConversationDataset
from llava.train.llava_trainer import LlavaTrainer, last_checkpoint, load_trained
from llava.utils import exit_code, installed

logger = logging.getLogger(__name__)

# The language model's linear layers, by their whole names: the tower has projections of the same last names.
LORA_TARGETS = r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
FAILURES = (ValueError, OSError, ImportError, FloatingPointError)

# Flags of LLaVA's or older transformers' scripts that are gone, and what to do instead.
GONE = {
    "--group_by_length": "give --train_sampling_strategy group_by_length, or --group_by_modality_length True",
    "--mpt_attn_impl": "MPT models are not supported",
    "--overwrite_output_dir": "a run goes on where its output_dir has checkpoints; give another folder to begin anew",
    "--save_safetensors": "leave it out: whole models and adapters are saved so",
    "--logging_dir": "set the environment variable TENSORBOARD_LOGGING_DIR",
}


@dataclass
class ModelArguments:
    """Which model is trained, and which parts of it.

    What is None is as the model has it, for a language model without a tower as LLaVA's default; but for
    `mm_use_im_patch_token`, which LLaVA sets and which only adds a token that no prompt has.
    """

    model_name_or_path: str = field(metadata={"help": "language model, or a LLaVA to train further"})
    version: str = field(default="v0", metadata={"help": "prompt template: plain to pre-train, v1 to tune"})
    freeze_backbone: bool = field(default=False, metadata={"help": "freeze the decoder; projector and head learn"})
    tune_mm_mlp_adapter: bool = field(default=False, metadata={"help": "only the projector learns"})
    freeze_mm_mlp_adapter: bool = field(default=False, metadata={"help": "the projector does not learn"})
    vision_tower: str | None = field(default=None, metadata={"help": "folder or hub name of the CLIP tower"})
    mm_vision_select_layer: int | None = field(default=None, metadata={"help": "hidden state read (new: -1)"})
    mm_vision_select_feature: str | None = field(default=None, metadata={"help": "patch or cls_patch (new: patch)"})
    mm_projector_type: str | None = field(default=None, metadata={"help": "linear, mlp2x_gelu (new: linear)"})
    mm_patch_merge_type: str | None = field(default=None, metadata={"help": "flat, spatial, spatial_unpad (new: flat)"})
    mm_use_im_start_end: bool | None = field(default=None, metadata={"help": "mark images in prompts (new: no)"})
    mm_use_im_patch_token: bool | None = field(default=None, metadata={"help": "add <im_patch> (new: no)"})
    pretrain_mm_mlp_adapter: str | None = field(default=None, metadata={"help": "mm_projector.bin to begin with"})


@dataclass
class DataArguments:
    """What is learnt from."""

    data_path: str = field(metadata={"help": "conversations, a JSON list or .jsonl"})
    image_folder: str | None = field(default=None, metadata={"help": "where the pictures' names begin"})
    lazy_preprocess: bool = field(default=False, metadata={"help": "tokenise a record when it is its turn"})
    is_multimodal: bool | None = field(default=None, metadata={"help": "False refuses records with pictures"})
    image_aspect_ratio: str | None = field(default=None, metadata={"help": "square, pad, anyres (new: square)"})
    skip_bad_records: bool = field(default=False, metadata={"help": "leave bad records out instead of stopping"})
    cut_long_records: bool = field(default=False, metadata={"help": "cut records at model_max_length, as LLaVA does"})


@dataclass
class TrainingArguments(TrainerArguments):
    """How it is learnt: Trainer's arguments and LLaVA's. Names that transformers 5 has changed are understood as well."""

    output_dir: str | None = field(default=None, metadata={"help": "folder of the checkpoints and the trained model"})
    eval_strategy: IntervalStrategy | str = field(
        default="no", metadata={"aliases": ["--evaluation_strategy"], "help": "no; there are no records to evaluate on"}
    )
    warmup_ratio: float | None = field(default=None, metadata={"help": "share of the steps that warm up"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "batches hold only what the model reads"})
    cache_dir: str | None = field(default=None, metadata={"help": "where hub models are kept"})
    model_max_length: int = field(default=2048, metadata={"help": "positions of a record, image tokens included"})
    mm_projector_lr: float | None = field(default=None, metadata={"help": "learning rate of the projector"})
    group_by_modality_length: bool = field(default=False, metadata={"help": "steps of like length, images or text"})
    bits: int = field(default=16, metadata={"help": "4 or 8: a LoRA over quantised weights"})
    double_quant: bool = field(default=True, metadata={"help": "always, with 4 bits"})
    quant_type: str = field(default="nf4", metadata={"help": "nf4, with 4 bits"})
    lora_enable: bool = field(default=False, metadata={"help": "train a LoRA instead of the language model"})
    lora_r: int = field(default=64, metadata={"help": "rank"})
    lora_alpha: int = field(default=16, metadata={"help": "scale, divided by the rank"})
    lora_dropout: float = field(default=0.05, metadata={"help": "of the LoRA's input"})
    lora_weight_path: str = field(default="", metadata={"help": "folder of a LoRA to begin with"})
    lora_bias: str = field(default="none", metadata={"help": "none, all or lora_only"})

    def __post_init__(self) -> None:
        """Checks what can be checked without a model; ValueError or ImportError says what to do."""
        if self.output_dir is None:
            raise ValueError("output_dir is missing; give --output_dir FOLDER")
        if self.warmup_ratio is not None:
            if not 0 <= self.warmup_ratio < 1:
                raise ValueError(f"warmup_ratio={self.warmup_ratio} is no share of the steps; give 0 <= share < 1")
            self.warmup_steps = self.warmup_ratio
        if self.bits not in (4, 8, 16) or (self.bits < 16 and not self.lora_enable):
            raise ValueError(f"bits={self.bits} is not possible; give 16, or 4 or 8 with --lora_enable True")
        if self.bits == 4 and not (self.double_quant and self.quant_type == "nf4"):
            raise ValueError("bits=4 is doubly quantised nf4 only; leave --double_quant and --quant_type out")
        if self.lora_bias not in ("none", "all", "lora_only"):
            raise ValueError(f"lora_bias={self.lora_bias!r} is unknown; give none, all or lora_only")
        if self.deepspeed and not installed("deepspeed"):
            raise ImportError("deepspeed is not installed: pip install deepspeed, or leave --deepspeed out")
        if "wandb" in str(self.report_to) and not installed("wandb"):
            raise ImportError("wandb is not installed: pip install wandb, or leave --report_to out")
        super().__post_init__()

    @property
    def weight_dtype(self) -> torch.dtype:
        """What frozen weights are kept in; weights that learn are float32, whose small steps are not rounded away."""
        return torch.bfloat16 if self.bf16 else torch.float16 if self.fp16 else torch.float32


# ------------------------------------------------------------------------------------------------------------- a model


def load_model(
    model_args: ModelArguments, args: TrainingArguments, knobs: dict[str, Any]
) -> tuple[PreTrainedTokenizerBase, LlavaLlamaForCausalLM, Any]:
    """The model to train, with tower and projector: `(tokenizer, model, image_processor)`.

    knobs: reduction knobs of its config. Raises what `load_pretrained_model` raises, and ValueError for flags that
    contradict the model.
    """
    mostly_frozen = model_args.tune_mm_mlp_adapter or model_args.freeze_backbone or args.lora_enable
    tokenizer, model, image_processor, _ = load_pretrained_model(
        model_args.model_name_or_path,
        # Trainer moves it to its device; quantised weights are made where they stay.
        device=str(args.device) if args.bits < 16 else "cpu",
        torch_dtype=args.weight_dtype if mostly_frozen else torch.float32,
        load_8bit=args.bits == 8,
        load_4bit=args.bits == 4,
        **knobs,
    )
    if image_processor is None:
        image_processor = _add_vision(model, model_args)
    else:
        _check_vision(model, model_args)
        if model_args.pretrain_mm_mlp_adapter:
            load_projector(model.get_model(), Path(model_args.pretrain_mm_mlp_adapter))
    for name in ("mm_use_im_start_end", "mm_use_im_patch_token"):
        if getattr(model_args, name) is not None:
            setattr(model.config, name, getattr(model_args, name))
    # A projector is saved without embeddings, and loading adds the tokens itself.
    if not model_args.tune_mm_mlp_adapter:
        model.initialize_vision_tokenizer(model.config, tokenizer)
    elif model.config.mm_use_im_start_end:
        raise ValueError(
            "tune_mm_mlp_adapter together with mm_use_im_start_end is not supported, for mm_projector.bin has no "
            "embeddings of the new tokens; pre-train with --mm_use_im_start_end False and set it for tuning"
        )
    return tokenizer, model, image_processor


def _add_vision(model: LlavaLlamaForCausalLM, model_args: ModelArguments) -> Any:
    """Gives a language model a tower and a new projector."""
    if model_args.vision_tower is None:
        raise ValueError(
            f"{model_args.model_name_or_path} has no vision tower; give --vision_tower, e.g. "
            "openai/clip-vit-large-patch14-336"
        )
    tower = Path(model_args.vision_tower).expanduser()
    fresh = {
        # A folder is found again from anywhere, and beside any model.
        "vision_tower": str(tower.resolve()) if tower.is_dir() else model_args.vision_tower,
        "mm_vision_select_layer": -1,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": "linear",
        "mm_patch_merge_type": "flat",
    }
    given = {name: value for name, value in vars(model_args).items() if name in fresh and name != "vision_tower"}
    fresh |= {name: value for name, value in given.items() if value is not None}
    model.get_model().initialize_vision_modules(
        SimpleNamespace(**fresh, pretrain_mm_mlp_adapter=model_args.pretrain_mm_mlp_adapter)
    )
    model.config.mm_use_im_start_end = model.config.mm_use_im_patch_token = False
    return model.get_vision_tower().image_processor


def _check_vision(model: LlavaLlamaForCausalLM, model_args: ModelArguments) -> None:
    """Refuses flags that say something else about tower and projector than the model's config."""
    for name in ("mm_vision_select_layer", "mm_vision_select_feature", "mm_projector_type", "mm_patch_merge_type"):
        given, own = getattr(model_args, name), getattr(model.config, name, None)
        if given is not None and own is not None and given != own:
            raise ValueError(
                f"{name}={given!r}, but {model_args.model_name_or_path} was trained with {own!r}; leave --{name} out"
            )
    own, given = model.config.mm_vision_tower, model_args.vision_tower
    if given is None or given == own:
        return
    inside = Path(model_args.model_name_or_path) / own
    if not Path(given).is_dir() or Path(given).resolve() not in (inside.resolve(), Path(own).resolve()):
        raise ValueError(
            f"vision_tower={given!r}, but {model_args.model_name_or_path} sees through {own!r}; leave --vision_tower out"
        )


def choose_trained(
    model: LlavaLlamaForCausalLM, model_args: ModelArguments, args: TrainingArguments
) -> tuple[Any, str]:
    """Freezes what does not learn: `(model, layout)`, the model wrapped by peft for a LoRA.

    The tower never learns. What learns becomes float32. With a LoRA the projector learns too, and so do a plan's own
    modules, and the embeddings if tokens were added to them.
    """
    layout = "projector" if model_args.tune_mm_mlp_adapter else "lora" if args.lora_enable else "whole"
    if layout == "lora":
        base_rows = read_json(find_folder(model_args.model_name_or_path, "model") / "config.json").get("vocab_size")
        has_grown = base_rows is not None and base_rows != model.config.vocab_size
        beside = (*PROJECTION, *UNTRAINED, *(("model.embed_tokens.", "lm_head.") if has_grown else ()))
        trained = [weight for name, weight in model.named_parameters() if name.startswith(beside)]
        model = _with_lora(model, args)
    else:
        beside = PROJECTION if layout == "projector" else (*PROJECTION, *UNTRAINED, "lm_head.")
        all_of_it = layout == "whole" and not model_args.freeze_backbone
        trained = [weight for name, weight in model.named_parameters() if all_of_it or name.startswith(beside)]
        model.requires_grad_(False)
    for weight in trained:
        weight.requires_grad_(True)
    model.get_vision_tower().requires_grad_(False)
    if model_args.freeze_mm_mlp_adapter:
        model.get_model().mm_projector.requires_grad_(False)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return model, layout


def _with_lora(model: LlavaLlamaForCausalLM, args: TrainingArguments) -> Any:
    """The model frozen under a LoRA of its language model's linear layers."""
    if not installed("peft"):
        raise ImportError("--lora_enable needs peft: pip install 'llava-condense[train]'")
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        bias=args.lora_bias,
        target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


# ---------------------------------------------------------------------------------------------------------- its records


def load_records(
    model: LlavaLlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    image_processor: Any,
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TrainingArguments,
) -> ConversationDataset:
    """The checked records, as the model is to read them; its config learns how pictures and prompts are prepared."""
    config = model.config
    own = getattr(config, "image_aspect_ratio", "square")
    config.image_aspect_ratio = data_args.image_aspect_ratio or own
    if config.image_aspect_ratio == "anyres" and not getattr(config, "image_grid_pinpoints", None):
        raise ValueError("image_aspect_ratio=anyres needs a model whose config has image_grid_pinpoints, as LLaVA-1.6")
    if args.model_max_length > config.max_position_embeddings:
        raise ValueError(
            f"model_max_length={args.model_max_length} exceeds the {config.max_position_embeddings} positions of the model"
        )
    config.tokenizer_padding_side = "right"
    tokenizer.model_max_length = args.model_max_length
    config.tokenizer_model_max_length = None  # pictures are measured uncut
    positions = image_positions(model, image_processor)
    config.tokenizer_model_max_length = args.model_max_length
    dataset = ConversationDataset(
        data_args.data_path,
        data_args.image_folder,
        model_args.version,
        tokenizer,
        image_processor,
        config,
        args.model_max_length,
        positions,
        images_required=model_args.tune_mm_mlp_adapter,
        cut_long=data_args.cut_long_records,
        skip_bad=data_args.skip_bad_records,
        lazy=data_args.lazy_preprocess,
    )
    if data_args.is_multimodal is False and any(dataset.has_image):
        raise ValueError(f"is_multimodal=False, but {data_args.data_path} has pictures; leave the flag out")
    logger.info("%d records, %d with pictures", len(dataset), sum(dataset.has_image))
    return dataset


def image_positions(model: LlavaLlamaForCausalLM, image_processor: Any) -> int | Callable[[Size], int]:
    """How many positions a picture takes under the plan in force; for "anyres" a function of its (width, height)."""
    measured: dict[Size, int] = {}

    def of(size: Size) -> int:
        if size not in measured:
            picture = Image.new("RGB", size, (90, 120, 150))
            pixels = process_images([picture], image_processor, model.config)
            with torch.no_grad():
                spliced = model.splice(torch.tensor([[IMAGE_TOKEN_INDEX]]), images=pixels, image_sizes=[size])
            measured[size] = int(spliced.attention_mask.sum())
        return measured[size]

    return of if model.config.image_aspect_ratio == "anyres" else of((336, 336))


# ------------------------------------------------------------------------------------------------------------- training


def train(
    model_args: ModelArguments, data_args: DataArguments, args: TrainingArguments, knobs: dict[str, Any] | None = None
) -> LlavaTrainer:
    """Trains, saves the model in `args.output_dir`, and returns the trainer that holds it.

    knobs: reduction knobs, e.g. `{"reduction": "fastv@2:64"}`. A folder with checkpoints is gone on with from the newest
    complete one, unless `args.resume_from_checkpoint` names another one or says "False".

    Raises ValueError for flags that contradict each other or the model and for bad records (named), ImportError naming
    what to install, FloatingPointError naming step and checkpoint when the loss is no number.
    """
    _check(model_args, args)
    if args.cache_dir:
        huggingface_hub.constants.HF_HUB_CACHE = args.cache_dir
    set_seed(args.seed)
    knobs = dict(knobs or {})
    if knobs.get("reduction"):
        # The saved config has to say what a YAML file said, wherever that is.
        knobs["reduction"] = "+".join(map(str, plan_from(knobs["reduction"])))
    tokenizer, model, image_processor = load_model(model_args, args, knobs)
    dataset = load_records(model, tokenizer, image_processor, model_args, data_args, args)
    config = model.config
    config.tune_mm_mlp_adapter = model_args.tune_mm_mlp_adapter
    config.freeze_mm_mlp_adapter = model_args.freeze_mm_mlp_adapter
    config.mm_projector_lr = args.mm_projector_lr
    model, layout = choose_trained(model, model_args, args)
    if args.lora_weight_path:
        load_trained(model, Path(args.lora_weight_path))
    if args.ddp_find_unused_parameters is None and not all(dataset.has_image):
        args.ddp_find_unused_parameters = True  # a batch of texts does not pass the projector
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    trainer = LlavaTrainer(
        layout=layout, tokenizer=tokenizer, model=model, args=args, train_dataset=dataset, data_collator=Collator(pad)
    )
    trainer.train(resume_from_checkpoint=_resumed_from(args))
    trainer.save_state()
    trainer.save_model()
    return trainer


def _check(model_args: ModelArguments, args: TrainingArguments) -> None:
    """Refuses flags that contradict each other, before anything is loaded."""
    plain = get_conversation(model_args.version).sep_style is SeparatorStyle.PLAIN
    if plain and not model_args.tune_mm_mlp_adapter:
        logger.warning("--version plain trains on captions without questions, which is meant for --tune_mm_mlp_adapter")
    for one, other in (
        ("tune_mm_mlp_adapter", "freeze_mm_mlp_adapter"),
        ("tune_mm_mlp_adapter", "lora_enable"),
        ("freeze_backbone", "lora_enable"),
    ):
        if getattr(model_args, one) and (getattr(model_args, other, False) or getattr(args, other, False)):
            raise ValueError(f"{one} and {other} are both set; choose one")
    if args.mm_projector_lr is not None and model_args.freeze_mm_mlp_adapter:
        raise ValueError("mm_projector_lr is given, but freeze_mm_mlp_adapter keeps the projector as it is; choose one")
    if args.lora_weight_path and not args.lora_enable:
        raise ValueError("lora_weight_path is given without a LoRA; add --lora_enable True")
    if args.n_gpu > 1:
        raise ValueError(
            f"one process sees {args.n_gpu} GPUs; start one for each with `accelerate launch -m llava.train.train ...`, "
            "or set CUDA_VISIBLE_DEVICES to one"
        )


def _resumed_from(args: TrainingArguments) -> str | None:
    """The checkpoint a run goes on from."""
    asked = str(args.resume_from_checkpoint or "")
    if asked.lower() == "false":
        return None
    if asked and asked.lower() != "true":
        return asked
    found = last_checkpoint(args.output_dir)
    if found is None:
        return None
    logger.info("going on from %s", found)
    return str(found)


# --------------------------------------------------------------------------------------------------------- command line


def parser() -> argparse.ArgumentParser:
    """LLaVA's flags, Trainer's, and those of reduction."""
    flags = HfArgumentParser(
        (ModelArguments, DataArguments, TrainingArguments),
        prog="python -m llava.train.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_reduction_flags(flags)
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
    """The command line; returns 0, 2 for bad input or a loss that is no number, 130 when stopped by Ctrl-C."""
    stopped = "stopped; the same command goes on from the last checkpoint"
    return exit_code(lambda: train(*parse(arguments)), FAILURES, stopped)


if __name__ == "__main__":
    sys.exit(main())
