"""One question about one or several images: `python -m llava.eval.run_llava --model-path ... --image-file a.png --query "..."`."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from llava.cli.flags import add_model_flags, add_reduction_flags, load_from_flags
from llava.conversation import conversation_mode, get_conversation
from llava.mm_utils import (
    get_model_name_from_path,
    load_image,
    process_images,
    question_with_images,
    tokenizer_image_token,
)
from llava.utils import exit_code

logger = logging.getLogger(__name__)


def image_parser(args: Namespace) -> list[str]:
    """The image files of `args.image_file`, split at `args.sep`; none for an empty text."""
    return [name for name in (args.image_file or "").split(args.sep) if name]


def load_images(image_files: Sequence[str]) -> list[Image.Image]:
    """The pictures in files or behind addresses; raises as `load_image` does."""
    return [load_image(name) for name in image_files]


def chosen_mode(args: Namespace, config: Any = None) -> str:
    """`args.conv_mode`, or the template of the checkpoint's config, or of its name; a warning where the first differs."""
    inferred = conversation_mode(get_model_name_from_path(args.model_path), config)
    mode = getattr(args, "conv_mode", None) or inferred
    if mode != inferred:
        logger.warning("the model suggests the template %s; --conv-mode %s is used", inferred, mode)
    return mode


def answer(args: Namespace, tokenizer: Any, model: Any, image_processor: Any) -> str:
    """The model's answer to `args.query` about `args.image_file`."""
    images = load_images(image_parser(args))
    conv = get_conversation(chosen_mode(args, model.config))
    conv.append_message(conv.roles[0], question_with_images(args.query, len(images), model.config))
    conv.append_message(conv.roles[1], None)
    ids = tokenizer_image_token(conv.get_prompt(), tokenizer, return_tensors="pt")
    sampling = args.temperature > 0
    output = model.generate(
        ids.unsqueeze(0),
        images=process_images(images, image_processor, model.config) if images else None,
        image_sizes=[image.size for image in images] or None,
        do_sample=sampling,
        temperature=args.temperature if sampling else None,
        top_p=args.top_p if sampling else None,
        num_beams=args.num_beams,
        max_new_tokens=args.max_new_tokens,
    )
    return tokenizer.batch_decode(output, skip_special_tokens=True)[0].strip()


def eval_model(args: Namespace) -> str:
    """Loads the model, answers, writes the answer to stdout and returns it.

    args: what `parser()` reads; LLaVA's own namespace (model_path, model_base, query, conv_mode, image_file, sep,
    temperature, top_p, num_beams, max_new_tokens) is enough.
    """
    tokenizer, model, image_processor, _ = load_from_flags(args)
    with torch.inference_mode():
        text = answer(args, tokenizer, model, image_processor)
    sys.stdout.write(text + "\n")
    return text


def parser() -> ArgumentParser:
    """LLaVA's flags, the model's and every reduction flag."""
    flags = ArgumentParser(description=__doc__)
    add_model_flags(flags)
    flags.add_argument("--image-file", "--image_file", required=True, help="files or addresses, split at --sep")
    flags.add_argument("--query", required=True)
    flags.add_argument("--sep", default=",")
    flags.add_argument("--temperature", type=float, default=0.2, help="0 is greedy")
    flags.add_argument("--top-p", "--top_p", type=float)
    flags.add_argument("--num-beams", "--num_beams", type=int, default=1)
    flags.add_argument("--max-new-tokens", "--max_new_tokens", type=int, default=512)
    add_reduction_flags(flags)
    return flags


if __name__ == "__main__":
    sys.exit(exit_code(lambda: eval_model(parser().parse_args())))
