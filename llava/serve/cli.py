"""A chat about an image in the terminal: `python -m llava.serve.cli --model-path ... --image-file picture.png`.

An empty line or end of input ends the chat.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from transformers import StoppingCriteriaList, TextStreamer

from llava.cli.flags import add_model_flags, add_reduction_flags, load_from_flags
from llava.conversation import Conversation, get_conversation
from llava.eval.run_llava import chosen_mode, load_images, with_images
from llava.mm_utils import KeywordsStoppingCriteria, process_images, tokenizer_image_token


class Chat:
    """A dialogue about images: every turn is answered with all earlier ones in view.

    images: PIL pictures, put in front of the first question. options: keywords of `generate`.
    """

    def __init__(
        self, tokenizer: Any, model: Any, image_processor: Any, conv: Conversation, images: list[Any], **options: Any
    ):
        self.tokenizer, self.model, self.conv, self.options = tokenizer, model, conv, options
        self.count = len(images)
        self.pixels = process_images(images, image_processor, model.config) if images else None
        self.sizes = [image.size for image in images] or None

    @torch.inference_mode()
    def say(self, text: str, streamer: Any = None) -> str:
        """The answer to a line of the user, streamed while it is written if a streamer is given."""
        first = len(self.conv.messages) == self.conv.offset
        self.conv.append_message(
            self.conv.roles[0], with_images(text, self.count, self.model.config) if first else text
        )
        self.conv.append_message(self.conv.roles[1], None)
        ids = tokenizer_image_token(self.conv.get_prompt(), self.tokenizer, return_tensors="pt").unsqueeze(0)
        stop = KeywordsStoppingCriteria([self.conv.stop_string], self.tokenizer, ids)
        output = self.model.generate(
            ids,
            images=self.pixels,
            image_sizes=self.sizes,
            streamer=streamer,
            stopping_criteria=StoppingCriteriaList([stop]),
            **self.options,
        )
        reply = self.tokenizer.decode(output[0], skip_special_tokens=True).strip()
        reply = reply.removesuffix(self.conv.stop_string).strip()
        self.conv.messages[-1][1] = reply
        return reply


def main(args: Namespace, read: Callable[[str], str] | None = None) -> None:
    """Chats until an empty line, end of input or Ctrl-C. read: asks for a line; the terminal's own by default."""
    console = Console()
    tokenizer, model, image_processor, _ = load_from_flags(args)
    sampling = args.temperature > 0
    chat = Chat(
        tokenizer,
        model,
        image_processor,
        get_conversation(chosen_mode(args)),
        load_images(args.image_file),
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
        except (EOFError, KeyboardInterrupt):
            console.print()
            return


def parser() -> ArgumentParser:
    """LLaVA's flags, the model's and every reduction flag."""
    flags = ArgumentParser(description=__doc__)
    add_model_flags(flags)
    flags.add_argument("--image-file", "--image_file", nargs="+", required=True, help="one or more files or addresses")
    flags.add_argument("--temperature", type=float, default=0.2, help="0 is greedy")
    flags.add_argument("--max-new-tokens", "--max_new_tokens", type=int, default=512)
    add_reduction_flags(flags)
    return flags


if __name__ == "__main__":
    main(parser().parse_args())
