"""One question about one or several images: `python -m llava.eval.run_llava --model-path ... --image-file a.png --query "..."`."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from llava.cli.flags import add_model_flags, add_reduction_flags, completed, model_spec, reduction_kwargs
from llava.cli.loading import Loaded, load_model
from llava.cli.settings import ModelSpec
from llava.conversation import conversation_mode, get_conversation
from llava.mm_utils import (
    get_model_name_from_path,
    load_image,
    process_images,
    question_with_images,
    tokenizer_image_token,
)
from llava.reduction.plan import Spec
from llava.utils import exit_code

from .ask.subject import Generation

logger = logging.getLogger(__name__)


def image_parser(args: Namespace) -> list[str]:
    """The image files of `args.image_file`, split at `args.sep`; none for an empty text."""
    return [name for name in (args.image_file or "").split(args.sep) if name]


def load_images(image_files: Sequence[str]) -> list[Image.Image]:
    """The pictures in files or behind addresses; raises as `load_image` does."""
    return [load_image(name) for name in image_files]


def chosen_mode(spec: ModelSpec, config: Any = None) -> str:
    """The template of a spec, or of the checkpoint's config, or of its name; a warning where the first differs."""
    inferred = conversation_mode(spec.name, config)
    if spec.conv_mode and spec.conv_mode != inferred:
        logger.warning("the model suggests the template %s; --conv-mode %s is used", inferred, spec.conv_mode)
    return spec.conv_mode or inferred


@torch.inference_mode()
def answer(
    loaded: Loaded,
    question: str,
    images: Sequence[Image.Image],
    conv_mode: str,
    generation: Generation,
    reduction: Spec = None,
) -> str:
    """A loaded model's answer to a question about pictures; reduction: a plan in place of the model's own."""
    tokenizer, model, image_processor, _ = loaded
    conv = get_conversation(conv_mode)
    conv.append_message(conv.roles[0], question_with_images(question, len(images), model.config))
    conv.append_message(conv.roles[1], None)
    ids = tokenizer_image_token(conv.get_prompt(), tokenizer, return_tensors="pt")
    output = model.generate(
        ids.unsqueeze(0),
        images=process_images(list(images), image_processor, model.config) if images else None,
        image_sizes=[image.size for image in images] or None,
        reduction=reduction,
        **generation.keywords(),
    )
    return tokenizer.batch_decode(output, skip_special_tokens=True)[0].strip()


def ask(
    model: str | Path | Loaded,
    image: str | Path | Image.Image | Sequence[str | Path | Image.Image] | None,
    question: str,
    reduction: Spec = None,
    max_new_tokens: int = 128,
) -> str:
    """The answer of a model to a question about a picture, greedily: `llava.ask(path, "cat.png", "What is it?", "fastv@2:64")`.

    model: folder or hub name (the last one loaded is kept), or what `load_pretrained_model` returned. image: a file, an
    address, a PIL picture, several of them, or None for words alone. reduction: a plan in place of the model's own. Raises
    what `load_pretrained_model`, `load_image` and `plan_from` do.
    """
    loaded = _kept(str(model)) if isinstance(model, str | Path) else model
    several = [image] if image is None or isinstance(image, str | Path | Image.Image) else image
    pictures = [one if isinstance(one, Image.Image) else load_image(str(one)) for one in several if one is not None]
    path = str(getattr(loaded[1].config, "_name_or_path", ""))
    mode = conversation_mode(get_model_name_from_path(path) if path else "llava", loaded[1].config)
    return answer(loaded, question, pictures, mode, Generation(max_new_tokens), reduction)


@lru_cache(maxsize=1)
def _kept(path: str) -> Loaded:
    return load_model(ModelSpec(path))


def eval_model(args: object) -> str:
    """Loads the model, answers, writes the answer to stdout and returns it.

    args: what `parser()` reads, or any object with such attributes; LLaVA's (model_path, model_base, query, conv_mode, image_file, sep,
    temperature, top_p, num_beams, max_new_tokens) is enough.
    """
    args = completed(args, parser())
    spec, images = model_spec(args), load_images(image_parser(args))
    generation = Generation(args.max_new_tokens, args.temperature, args.top_p, args.num_beams)
    loaded = load_model(spec, **reduction_kwargs(args))
    text = answer(loaded, args.query, images, chosen_mode(spec, loaded[1].config), generation)
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
