"""Prompt templates: how a dialogue becomes the one string a language model was trained on."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from io import BytesIO
from typing import Any

from PIL import Image

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.mm_utils import expand2square, squarable
from llava.pictures import to_rgb
from llava.reduction import did_you_mean

Turns = list[tuple[str, str | None]]


class SeparatorStyle(Enum):
    """How the turns of a dialogue are joined."""

    SINGLE = auto()
    TWO = auto()
    MPT = auto()
    PLAIN = auto()
    LLAMA_2 = auto()
    CHATML = auto()
    LLAMA_3 = auto()


@dataclass
class Conversation:
    """A dialogue and the template that writes it.

    messages: `[role, text]` pairs; a last text of None or "" is the slot the model is to fill, an earlier "" an empty
    answer. A user's text may be a tuple
    `(text, PIL image, mode)` with mode one of "Default", "Crop", "Pad", "Resize".
    offset: how many leading messages are examples that belong to the template.
    """

    system: str
    roles: tuple[str, str]
    messages: list[list[Any]]
    offset: int
    sep_style: SeparatorStyle = SeparatorStyle.SINGLE
    sep: str = "###"
    sep2: str | None = None
    version: str = "Unknown"
    skip_next: bool = False

    def get_prompt(self) -> str:
        """The dialogue as one string, ready for `tokenizer_image_token`.

        Raises ValueError for a LLAMA_2 dialogue that does not begin with a message of the first role.
        """
        return _WRITERS[self.sep_style](self, self._turns())

    def append_message(self, role: str, message: Any) -> None:
        """Adds a turn; message None leaves the slot open."""
        self.messages.append([role, message])

    @property
    def stop_string(self) -> str:
        """The string that ends an answer under this template."""
        ended_by_second = self.sep_style in (SeparatorStyle.TWO, SeparatorStyle.LLAMA_2)
        return self.sep2 if ended_by_second and self.sep2 else self.sep

    def process_image(
        self,
        image: Image.Image,
        image_process_mode: str,
        return_pil: bool = False,
        image_format: str = "PNG",
        max_len: int = 1344,
        min_len: int = 672,
    ) -> Image.Image | str:
        """An image made square or small enough to travel with a chat, as PIL or base64 text.

        image_process_mode: "Pad" squares it on CLIP's mean colour, "Resize" makes it 336x336, "Default" and "Crop"
        leave it. An image longer than `max_len` shrinks to a short side of at most `min_len`. Raises ValueError for
        another mode.
        """
        if image_process_mode == "Pad":
            image = expand2square(squarable(image), (122, 116, 104))
        elif image_process_mode == "Resize":
            image = image.resize((336, 336))
        elif image_process_mode not in ("Default", "Crop"):
            raise ValueError(
                f"image_process_mode={image_process_mode!r} is unknown; give 'Default', 'Crop', 'Pad' or 'Resize'"
            )
        long, short = max(image.size), min(image.size)
        if long > max_len:
            ratio = long / short
            short = int(min(max_len / ratio, min_len, short))
            long = int(short * ratio)
            image = image.resize((short, long) if image.height > image.width else (long, short))
        return image if return_pil else _base64(image, image_format)

    def get_images(self, return_pil: bool = False) -> list[Image.Image | str]:
        """The pictures of the user's turns, in order, each processed in the mode it was given with."""
        return [
            self.process_image(message[1], message[2], return_pil=return_pil)
            for _, message in self.messages[self.offset :: 2]
            if isinstance(message, tuple)
        ]

    def to_gradio_chatbot(self) -> list[list[str | None]]:
        """The dialogue as gradio's pairs [user, assistant]; pictures are inlined as HTML."""
        pairs: list[list[str | None]] = []
        for index, (_, message) in enumerate(self.messages[self.offset :]):
            if index % 2:
                pairs[-1][1] = message
                continue
            if isinstance(message, tuple):
                text, image, _ = message
                data = self.process_image(image, "Default", image_format="JPEG")
                picture = f'<img src="data:image/jpeg;base64,{data}" alt="user upload image" />'
                message = picture + text.replace(DEFAULT_IMAGE_TOKEN, "").strip()
            pairs.append([message, None])
        return pairs

    def copy(self) -> Conversation:
        """The same template and turns; turns added to the copy do not appear in the original."""
        return dataclasses.replace(self, messages=[list(message) for message in self.messages])

    def dict(self) -> dict[str, Any]:
        """Everything but the template's style as plain data; a turn with a picture keeps only its text."""
        return {
            "system": self.system,
            "roles": self.roles,
            "messages": [[role, text[0] if isinstance(text, tuple) else text] for role, text in self.messages],
            "offset": self.offset,
            "sep": self.sep,
            "sep2": self.sep2,
        }

    def _turns(self) -> Turns:
        """(role, text) of every message, the first picture moved to the front; an open slot is None."""
        messages = [(role, message) for role, message in self.messages]
        if messages and isinstance(messages[0][1], tuple):
            role, (text, *_) = messages[0]
            text = text.replace(DEFAULT_IMAGE_TOKEN, "").strip()
            if "mmtag" in self.version:
                picture = f"<Image>{DEFAULT_IMAGE_TOKEN}</Image>"
                messages[:1] = [(self.roles[0], picture), (self.roles[1], "Received."), (role, text)]
            else:
                messages[0] = (role, f"{DEFAULT_IMAGE_TOKEN}\n{text}")
        turns = [(role, text[0] if isinstance(text, tuple) else text) for role, text in messages]
        return [*turns[:-1], *((role, text or None) for role, text in turns[-1:])]


def _write_labelled(conv: Conversation, turns: Turns) -> str:
    """SINGLE and TWO: `system sep role: text sep role: text sep2 ... role:`."""
    separators = (conv.sep, conv.sep if conv.sep_style is SeparatorStyle.SINGLE else conv.sep2)
    written = (
        f"{role}: {text}{separators[i % 2]}" if text is not None else f"{role}:" for i, (role, text) in enumerate(turns)
    )
    return conv.system + conv.sep + "".join(written)


def _write_mpt(conv: Conversation, turns: Turns) -> str:
    """MPT: roles carry their own marks, every text ends in `sep`."""
    return conv.system + conv.sep + "".join(role if text is None else role + text + conv.sep for role, text in turns)


def _write_chatml(conv: Conversation, turns: Turns) -> str:
    """CHATML: as MPT with a line for every mark, `role\\n text sep\\n`; an empty system text is left out entirely."""
    system = f"{conv.system}{conv.sep}\n" if conv.system else ""
    return system + "".join(f"{role}\n" + ("" if text is None else f"{text}{conv.sep}\n") for role, text in turns)


def _write_llama_3(conv: Conversation, turns: Turns) -> str:
    """LLAMA_3: every text under a header with its role, stripped of spaces, as in the tokenizer's own template."""
    written = (
        f"<|start_header_id|>{role}<|end_header_id|>\n\n" + ("" if text is None else f"{text.strip()}{conv.sep}")
        for role, text in [("system", conv.system), *turns]
    )
    return "<|begin_of_text|>" + "".join(written)


def _write_plain(conv: Conversation, turns: Turns) -> str:
    """PLAIN: texts only. A template without `sep2` ends both turns with `sep`."""
    separators = (conv.sep, conv.sep if conv.sep2 is None else conv.sep2)
    return conv.system + "".join("" if text is None else text + separators[i % 2] for i, (_, text) in enumerate(turns))


def _write_llama_2(conv: Conversation, turns: Turns) -> str:
    """LLAMA_2: `[INST] text [/INST] answer sep2sep[INST] ...`, the system text inside the first instruction."""
    if turns and (turns[0][0] != conv.roles[0] or not turns[0][1]):
        raise ValueError(f"a LLAMA_2 dialogue begins with a message of {conv.roles[0]!r}, but this one with {turns[0]}")
    prompt = ""
    for i, (_, text) in enumerate(turns):
        if text is None:
            continue
        if i == 0 and conv.system:
            text = f"<<SYS>>\n{conv.system}\n<</SYS>>\n\n{text}"
        prompt += f" {text} {conv.sep2}" if i % 2 else f"{conv.sep}[INST] {text} [/INST]"
    # The tokenizer adds the first BOS itself.
    return prompt.removeprefix(conv.sep)


_WRITERS: dict[SeparatorStyle, Callable[[Conversation, Turns], str]] = {
    SeparatorStyle.SINGLE: _write_labelled,
    SeparatorStyle.TWO: _write_labelled,
    SeparatorStyle.MPT: _write_mpt,
    SeparatorStyle.PLAIN: _write_plain,
    SeparatorStyle.LLAMA_2: _write_llama_2,
    SeparatorStyle.CHATML: _write_chatml,
    SeparatorStyle.LLAMA_3: _write_llama_3,
}


def _base64(image: Image.Image, image_format: str) -> str:
    buffer = BytesIO()
    # JPEG has no transparency.
    (to_rgb(image) if image_format == "JPEG" else image).save(buffer, format=image_format)
    return base64.b64encode(buffer.getvalue()).decode()


_CHAT = (
    "A chat between a curious {who} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {who}'s questions."
)
# The missing space after "natural language." is how the models were trained.
_MMTAG = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant is able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
    "The visual content will be provided with the following format: <Image>visual content</Image>."
)
_LLAMA_2 = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)
_LLAVA_LLAMA_2 = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
_EXAMPLE_QUESTION = "What are the key differences between renewable and non-renewable energy sources?"
_EXAMPLE_ANSWER = (
    "Renewable energy sources are those that can be replenished naturally in a relatively short amount of time, such "
    "as solar, wind, hydro, geothermal, and biomass. Non-renewable energy sources, on the other hand, are finite and "
    "will eventually be depleted, such as coal, oil, and natural gas. Here are some key differences between renewable "
    "and non-renewable energy sources:\n"
    "1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable energy sources are "
    "finite and will eventually run out.\n"
    "2. Environmental impact: Renewable energy sources have a much lower environmental impact than non-renewable "
    "sources, which can lead to air and water pollution, greenhouse gas emissions, and other negative effects.\n"
    "3. Cost: Renewable energy sources can be more expensive to initially set up, but they typically have lower "
    "operational costs than non-renewable sources.\n"
    "4. Reliability: Renewable energy sources are often more reliable and can be used in more remote locations than "
    "non-renewable sources.\n"
    "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to different situations and "
    "needs, while non-renewable sources are more rigid and inflexible.\n"
    "6. Sustainability: Renewable energy sources are more sustainable over the long term, while non-renewable sources "
    "are not, and their depletion can lead to economic and social instability.\n"
)
_HUMAN, _USER = ("Human", "Assistant"), ("USER", "ASSISTANT")
_CHATML = ("<|im_start|>user\n", "<|im_start|>assistant\n")


def _template(system: str, roles: tuple[str, str], style: SeparatorStyle, sep: str, **more: Any) -> Conversation:
    return Conversation(
        **{"system": system, "roles": roles, "messages": [], "offset": 0, **more}, sep_style=style, sep=sep
    )


conv_vicuna_v0 = _template(
    _CHAT.format(who="human"),
    _HUMAN,
    SeparatorStyle.SINGLE,
    "###",
    messages=[["Human", _EXAMPLE_QUESTION], ["Assistant", _EXAMPLE_ANSWER]],
    offset=2,
)
conv_vicuna_v1 = _template(_CHAT.format(who="user"), _USER, SeparatorStyle.TWO, " ", sep2="</s>", version="v1")
conv_llama_2 = _template(_LLAMA_2, _USER, SeparatorStyle.LLAMA_2, "<s>", sep2="</s>", version="llama_v2")
conv_llava_llama_2 = _template(_LLAVA_LLAMA_2, _USER, SeparatorStyle.LLAMA_2, "<s>", sep2="</s>", version="llama_v2")
conv_mistral_instruct = _template("", _USER, SeparatorStyle.LLAMA_2, "", sep2="</s>", version="llama_v2")
conv_chatml_direct = _template(
    "<|im_start|>system\nAnswer the questions.", _CHATML, SeparatorStyle.MPT, "<|im_end|>", version="mpt"
)
conv_mpt = _template(
    "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. "
    "The assistant gives helpful and honest answers.",
    _CHATML,
    SeparatorStyle.MPT,
    "<|im_end|>",
    version="mpt",
)
conv_qwen = _template(
    "<|im_start|>system\nYou are a helpful assistant.",
    ("<|im_start|>user", "<|im_start|>assistant"),
    SeparatorStyle.CHATML,
    "<|im_end|>",
    version="qwen",
)
conv_llava_llama_3 = _template(
    _LLAVA_LLAMA_2, ("user", "assistant"), SeparatorStyle.LLAMA_3, "<|eot_id|>", version="llama_v3"
)
conv_llava_plain = _template("", ("", ""), SeparatorStyle.PLAIN, "\n")
conv_llava_v0 = _template(_CHAT.format(who="human"), _HUMAN, SeparatorStyle.SINGLE, "###")
conv_llava_v0_mmtag = _template(_MMTAG, _HUMAN, SeparatorStyle.SINGLE, "###", version="v0_mmtag")
conv_llava_v1 = _template(_CHAT.format(who="human"), _USER, SeparatorStyle.TWO, " ", sep2="</s>", version="v1")
conv_llava_v1_mmtag = _template(_MMTAG, _USER, SeparatorStyle.TWO, " ", sep2="</s>", version="v1_mmtag")

conv_templates: dict[str, Conversation] = {
    "default": conv_vicuna_v0,
    "v0": conv_vicuna_v0,
    "v1": conv_vicuna_v1,
    "vicuna_v1": conv_vicuna_v1,
    "llama_2": conv_llama_2,
    "mistral_instruct": conv_mistral_instruct,
    "chatml_direct": conv_chatml_direct,
    "mistral_direct": conv_chatml_direct,
    "plain": conv_llava_plain,
    "v0_plain": conv_llava_plain,
    "llava_v0": conv_llava_v0,
    "v0_mmtag": conv_llava_v0_mmtag,
    "llava_v1": conv_llava_v1,
    "v1_mmtag": conv_llava_v1_mmtag,
    "llava_llama_2": conv_llava_llama_2,
    "llava_llama_3": conv_llava_llama_3,
    "llava_mistral_instruct": conv_mistral_instruct,
    "mpt": conv_mpt,
    "qwen_1_5": conv_qwen,
    "qwen_2": conv_qwen,
}
default_conversation = conv_vicuna_v1

# First match wins.
_MODE_BY_NAME = (
    ("llama-2", "llava_llama_2"),
    ("llama-3", "llava_llama_3"),
    ("llama3", "llava_llama_3"),
    ("mistral", "mistral_instruct"),
    ("v1.6-34b", "chatml_direct"),
    ("qwen", "qwen_1_5"),
    ("v1", "llava_v1"),
    ("mpt", "mpt"),
)
# Where the name says nothing: what checkpoints of a family were trained on.
_MODE_BY_TYPE = {"llava_mistral": "mistral_instruct", "llava_qwen": "qwen_1_5"}


# Templates of models that were never trained on Vicuna's, which LLaVA's scripts name.
OTHER_DECODERS = ("llava_llama_3", *_MODE_BY_TYPE.values())
_MODE_FIELDS = ("conv_mode", "model_type")


def conversation_mode(model_name: str, config: Any = None, conv_mode: str | None = None) -> str:
    """The name of the prompt template a model is asked with.

    The first of these that names one decides: `conv_mode`, a caller's own choice; the field `conv_mode` of the
    checkpoint's config (an object or a dict), the template the model was trained with; the model's name, as LLaVA's
    command lines read it; the config's `model_type`; else "llava_v0". Raises ValueError with the nearest names for an
    unknown template.
    """
    fields = config if isinstance(config, dict) else {name: getattr(config, name, None) for name in _MODE_FIELDS}
    field, kind = (fields.get(name) for name in _MODE_FIELDS)
    name = model_name.lower()
    usual = next((mode for part, mode in _MODE_BY_NAME if part in name), _MODE_BY_TYPE.get(str(kind), "llava_v0"))
    mode = conv_mode or field or usual
    get_conversation(mode)
    return mode


def get_conversation(name: str) -> Conversation:
    """A fresh dialogue of the named template. Raises ValueError with the nearest names for an unknown one."""
    if not isinstance(name, str) or name not in conv_templates:
        raise ValueError(
            f"conversation template {name!r} is unknown{did_you_mean(str(name), conv_templates)}; "
            f"there are {', '.join(conv_templates)}"
        )
    return conv_templates[name].copy()
