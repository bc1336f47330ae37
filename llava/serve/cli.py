"""A chat about an image in the terminal: `python -m llava.serve.cli --model-path ... --image-file picture.png`.

An empty line or end of input ends the chat.
"""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor
from transformers import StoppingCriteriaList, TextStreamer

from llava.cli.flags import add_model_flags, add_reduction_flags, load_from_flags
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import Conversation, conversation_mode, get_conversation
from llava.mm_utils import (
    KeywordsStoppingCriteria,
    get_model_name_from_path,
    load_image,
    process_images,
    question_with_images,
    tokenizer_image_token,
)
from llava.model.builder import context_length
from llava.reduction import Stage
from llava.utils import exit_code

logger = logging.getLogger(__name__)


class Chat:
    """A dialogue about images: every turn is answered with all earlier ones in view that the model's positions hold.

    images: PIL pictures, put in front of the first question in view; the tower sees them once under each plan, not with
    every turn. options: keywords of `generate`. conv: the template; its messages show the dialogue as the model has read it
    last.
    """

    def __init__(
        self,
        tokenizer: Any,
        model: Any,
        image_processor: Any,
        conv: Conversation,
        images: Sequence[Image.Image],
        **options: Any,
    ):
        self.tokenizer, self.model, self.conv, self.options = tokenizer, model, conv, options
        self.count = len(images)
        self.pixels = process_images(images, image_processor, model.config) if images else None
        self.sizes = [image.size for image in images] or None
        self._template = conv.copy()
        self._turns: list[tuple[str, str]] = []
        self._seen: tuple[list[Stage], dict[str, Any]] | None = None

    @torch.inference_mode()
    def say(self, text: str, streamer: Any = None) -> str:
        """The answer to a line of the user, streamed while it is written if a streamer is given.

        Where the dialogue no longer fits into the model's positions its oldest turns are left out, with a warning. Raises
        ValueError for a line that does not fit alone or names images that are not there; the dialogue stays as it was.
        """
        kept = list(self._turns)
        messages, ids = self._prompt(kept, text)
        while kept and not self._fits(ids):
            del kept[0]
            messages, ids = self._prompt(kept, text)
        if not self._fits(ids):
            limit = context_length(self.model.config)
            raise ValueError(f"the question and its images take more than the model's {limit} positions; shorten it")
        if len(kept) < len(self._turns):
            logger.warning("the model no longer sees the %d oldest turns", len(self._turns) - len(kept))
        stop = KeywordsStoppingCriteria([self.conv.stop_string], self.tokenizer, ids)
        output = self.model.generate(
            ids,
            **self._vision(),
            streamer=streamer,
            stopping_criteria=StoppingCriteriaList([stop]),
            **self.options,
        )
        reply = self.tokenizer.decode(output[0], skip_special_tokens=True).strip()
        reply = reply.removesuffix(self.conv.stop_string).strip()
        self._turns = [*kept, (text, reply)]
        messages[-1][1] = reply
        self.conv.messages = messages
        return reply

    def _prompt(self, turns: Sequence[tuple[str, str]], text: str) -> tuple[list[list[Any]], Tensor]:
        """Messages and ids (1, S) of the dialogue with a new question, the images in front of its first one."""
        dialogue = self._template.copy()
        for number, (question, answer) in enumerate([*turns, (text, None)]):
            if number and DEFAULT_IMAGE_TOKEN in question:
                raise ValueError(
                    f"{DEFAULT_IMAGE_TOKEN} can stand in the first question only, for the images of this chat"
                )
            question = question if number else question_with_images(question, self.count, self.model.config)
            dialogue.append_message(dialogue.roles[0], question)
            dialogue.append_message(dialogue.roles[1], answer)
        ids = tokenizer_image_token(dialogue.get_prompt(), self.tokenizer, return_tensors="pt")
        return dialogue.messages, ids.unsqueeze(0)

    def _vision(self) -> dict[str, Any]:
        """The keywords that hand the images to the model as the tower sees them under the plan in force."""
        if self.pixels is None:
            return {}
        plan = self.model.get_model().plan(self.options.get("reduction"))
        if self._seen is None or self._seen[0] != plan:
            seen, seeds = self.model.encode_seen(self.pixels, plan), self.model.image_seeds(self.pixels)
            self._seen = plan, {"raw_vision_features": seen, "image_sizes": self.sizes, "image_seeds": seeds}
        return self._seen[1]

    def _fits(self, ids: Tensor) -> bool:
        """Whether a prompt fits into the model's positions, with what the plan in force leaves of its images."""
        words = int((ids != IMAGE_TOKEN_INDEX).sum())
        limit = context_length(self.model.config)
        whole = 0 if self.pixels is None else sum(self.model.visual_tokens(self.pixels, self.sizes))
        if words + whole <= limit:
            return True  # no plan leaves more than there is, so that none need be asked
        if self.pixels is None or words > limit:
            return False
        spliced = self.model.splice(ids, **self._vision(), reduction=self.options.get("reduction"))
        return words + int((spliced.visual > 0).sum()) <= limit


def main(args: Namespace, read: Callable[[str], str] | None = None) -> None:
    """Chats until an empty line, end of input or Ctrl-C. read: asks for a line; the terminal's own by default."""
    console = Console()
    tokenizer, model, image_processor, _ = load_from_flags(args)
    sampling = args.temperature > 0
    chat = Chat(
        tokenizer,
        model,
        image_processor,
        get_conversation(conversation_mode(get_model_name_from_path(args.model_path), model.config, args.conv_mode)),
        [load_image(file) for file in args.image_file],
        do_sample=sampling,
        temperature=args.temperature if sampling else None,
        max_new_tokens=args.max_new_tokens,
    )
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    while True:
        try:
            line = (read or console.input)(f"{chat.conv.roles[0]}: ").strip()
            if not line:
                return
            console.print(f"{chat.conv.roles[1]}: ", end="", markup=False)
            chat.say(line, streamer)
        except ValueError as error:
            console.print(str(error), markup=False, highlight=False)
        except (EOFError, KeyboardInterrupt):
            console.print()
            return


def parser() -> ArgumentParser:
    """LLaVA's flags, the model's and every reduction flag."""
    flags = ArgumentParser(prog="llava chat", description=__doc__)
    add_model_flags(flags)
    flags.add_argument("--image-file", "--image_file", nargs="+", required=True, help="one or more files or addresses")
    flags.add_argument("--temperature", type=float, default=0.2, help="0 is greedy")
    flags.add_argument("--max-new-tokens", "--max_new_tokens", type=int, default=512)
    add_reduction_flags(flags)
    return flags


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(parser().parse_args())))
