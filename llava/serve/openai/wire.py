"""The shapes of requests and answers, as the OpenAI API has them, with two additions: ``reduction`` and the visual tokens."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llava.constants import IMAGE_PLACEHOLDER
from llava.reduction import Stage

from .chat import Question, Sampling, Turn, Usage
from .errors import ApiError
from .images import read_image
from .limits import Limits
from .plans import stranger_plan


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageUrl(_Shape):
    """Where a picture is. detail is accepted and has no effect: the model's own layout decides."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class TextPart(_Shape):
    """Text of a message."""

    type: Literal["text"]
    text: str


class ImagePart(_Shape):
    """A picture of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Shape):
    """One message of a dialogue."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None


class StreamOptions(_Shape):
    """What a stream reports besides the answer."""

    include_usage: bool = False


class ChatRequest(_Shape):
    """The body of POST /v1/chat/completions. ``reduction``: a plan, in place of the server's."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    reduction: str | dict[str, Any] | list[str | dict[str, Any]] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    n: Literal[1] | None = None
    # Only what changes nothing
    logprobs: Literal[False] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None

    @property
    def urls(self) -> list[str]:
        """Where its pictures are."""
        parts = [part for message in self.messages for part in message.content]
        return [part.image_url.url for part in parts if isinstance(part, ImagePart)]


def parse_request(body: bytes, limits: Limits) -> ChatRequest:
    """A request from JSON. Raises ApiError that names the field, and for more text or pictures than allowed."""
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"])) or None
        if first["type"] == "extra_forbidden":
            raise ApiError(400, f"{field} is not supported by this server; leave it out", field) from None
        raise ApiError(400, f"{field or 'the body'}: {first['msg']}", field) from None
    text = len(body) - sum(map(len, request.urls))
    if text > limits.text_bytes:
        raise ApiError(
            413, f"{text} bytes without the pictures exceed the server's {limits.text_bytes}", code="request_too_large"
        )
    if len(request.urls) > limits.images:
        raise ApiError(400, f"{len(request.urls)} pictures exceed the server's {limits.images} a request", "messages")
    return request


def read_question(request: ChatRequest, limits: Limits, temperature: float) -> Question:
    """What a request asks, its pictures decoded. temperature: for a request that names none. Raises ApiError."""
    return Question(
        turns=_turns(request.messages, limits),
        sampling=_sampling(request, limits, temperature),
        reduction=None if request.reduction is None else read_plan(request.reduction),
    )


def read_plan(spec: str | dict[str, Any] | list[Any]) -> list[Stage]:
    """The plan of a request, which may name neither a file nor a folder of the server. Raises ApiError."""
    try:
        return stranger_plan(spec)
    except ValueError as error:
        raise ApiError(400, str(error), "reduction", "invalid_plan") from None


def _sampling(request: ChatRequest, limits: Limits, temperature: float) -> Sampling:
    wanted = request.max_completion_tokens or request.max_tokens
    if wanted is not None and wanted > limits.max_tokens:
        raise ApiError(400, f"max_tokens={wanted} exceeds the server's {limits.max_tokens}", "max_tokens")
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if "" in stops:
        raise ApiError(400, "stop holds an empty string, at which every answer would end", "stop")
    return Sampling(
        max_tokens=wanted,
        temperature=temperature if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed,
        stop=tuple(stops),
    )


def _turns(messages: list[Message], limits: Limits) -> list[Turn]:
    """Turns of user and assistant in alternation, the user's last.

    What the system says goes in front of the first question: the templates have a text of their own in its place, which the
    models were trained with.
    """
    system = [_text(message) for message in messages if message.role in ("system", "developer")]
    spoken = [message for message in messages if message.role in ("user", "assistant")]
    roles = [message.role for message in spoken]
    if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
        raise ApiError(
            400, f"messages must be user, assistant, user, ..., user; they are {', '.join(roles)}", "messages"
        )
    turns = []
    for number, message in enumerate(spoken):
        images = [read_image(part.image_url.url, limits) for part in message.content if isinstance(part, ImagePart)]
        if images and message.role == "assistant":
            raise ApiError(400, "a picture in a message of the assistant is not supported", "messages")
        text = _text(message)
        text = "\n".join([*system, text]) if number == 0 else text
        turns.append(Turn("assistant" if message.role == "assistant" else "user", text, images))
    return turns


def _text(message: Message) -> str:
    """The text of a message; a picture between two texts leaves its place, others go in front as in training."""
    if isinstance(message.content, str):
        return message.content
    kinds = [part.type for part in message.content]
    texts = [place for place, kind in enumerate(kinds) if kind == "text"]
    between = bool(texts) and "image_url" in kinds[texts[0] : texts[-1]]
    written = [part.text if isinstance(part, TextPart) else IMAGE_PLACEHOLDER for part in message.content]
    return "\n".join(text for text, kind in zip(written, kinds) if between or kind == "text")


# -------------------------------------------------------------------------------------------------------------- answers


class Completion:
    """One answer in the shapes of the API: whole, or as the chunks of a stream."""

    def __init__(self, model: str):
        self.model = model
        self.id, self.created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    def whole(self, text: str, reason: str, usage: Usage) -> dict[str, Any]:
        """The answer at once."""
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage_body(usage)}

    def chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        """A part of a stream."""
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def counted(self, usage: Usage) -> dict[str, Any]:
        """The last part of a stream whose client asked for the usage."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage_body(usage)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage_body(usage: Usage) -> dict[str, Any]:
    """Tokens as the API counts them; those of the pictures before, after, and on average over all layers."""
    layers = usage.visual_per_layer
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "visual_tokens": {
            "before": usage.visual,
            "after": layers[-1],
            "mean_per_layer": round(sum(layers) / len(layers), 2),
        },
    }
