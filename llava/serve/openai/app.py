"""The HTTP side: routes, limits on bodies, streams, and clients that go away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from .chat import Chat, End, Piece, Prompt
from .errors import ApiError
from .limits import MEGABYTE, Limits
from .queue import Queue, Ticket
from .wire import ChatRequest, Completion, parse_request, read_question

GONE = 499  # nginx's status for a client that did not wait; nobody reads it
_PREPARING = 2  # requests whose pictures are decoded at once
_LOOK = 0.2  # seconds between checks that a client is still there


def create_app(chat: Chat, limits: Limits | None = None, temperature: float = 0.0) -> FastAPI:
    """The server as an ASGI application.

    temperature: for requests that name none; 0 is greedy. Routes: POST /v1/chat/completions, GET /v1/models, GET
    /health.
    """
    limits = limits or Limits()
    started = int(time.time())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        queue = app.state.queue = Queue(chat, limits.batch, limits.open_requests)
        app.state.preparing = asyncio.Semaphore(_PREPARING)
        running = asyncio.create_task(queue.run())
        yield
        running.cancel()
        await queue.stop()

    app = FastAPI(title="llava-condense", lifespan=lifespan)

    @app.exception_handler(ApiError)
    async def refuse(_: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    @app.exception_handler(HTTPException)
    async def refuse_route(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(ApiError(error.status_code, str(error.detail)).body, error.status_code)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        queue: Queue = app.state.queue
        return {"status": "ok", "open_requests": queue.open, "waiting": queue.waiting}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": chat.name, "object": "model", "created": started, "owned_by": "llava-condense"}
        return {"object": "list", "data": [model]}

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Any:
        ticket: Ticket = app.state.queue.enter()
        handed_over = False
        try:
            body = await _body(request, limits)
            asked = await asyncio.to_thread(parse_request, body, limits)
            if asked.model != chat.name:
                raise ApiError(
                    404, f"the model {asked.model!r} is not here; this is {chat.name!r}", "model", "model_not_found"
                )
            async with app.state.preparing:
                ticket.wait_for(await asyncio.to_thread(_prepare, chat, asked, limits, temperature))
            if not asked.stream:
                return await _whole(request, ticket, Completion(chat.name))
            first = await _next(request, ticket)  # what cannot be answered is refused before the stream begins
            handed_over = True
            return _Stream(ticket, _chunks(ticket, first, Completion(chat.name), asked))
        finally:
            if not handed_over:
                ticket.close()

    return app


def _prepare(chat: Chat, asked: ChatRequest, limits: Limits, temperature: float) -> Prompt:
    question = read_question(asked, limits, temperature)
    try:
        return chat.prepare(question, limits.max_tokens)
    except ValueError as error:
        raise ApiError(400, str(error)) from None


async def _body(request: Request, limits: Limits) -> bytes:
    """The body of a request. Raises ApiError as soon as it is larger, or slower, than allowed."""
    content = bytearray()
    try:
        async with asyncio.timeout(limits.upload_seconds):
            async for part in request.stream():
                content += part
                if len(content) > limits.body_bytes:
                    most = f"{limits.body_bytes / MEGABYTE:.0f} MiB"
                    raise ApiError(413, f"the request exceeds the server's {most}", code="request_too_large")
    except TimeoutError:
        raise ApiError(408, f"the request did not arrive within {limits.upload_seconds} seconds") from None
    except ClientDisconnect:
        raise ApiError(GONE, "the client has gone") from None
    return bytes(content)


async def _next(request: Request, ticket: Ticket) -> Piece | End:
    """The next event of an answer. Raises ApiError where the client is gone, so that nothing can reach it."""
    while not await request.is_disconnected():
        if (event := await ticket.event(_LOOK)) is not None:
            return event
    raise ApiError(GONE, "the client has gone")


async def _whole(request: Request, ticket: Ticket, completion: Completion) -> dict[str, Any]:
    texts: list[str] = []
    while isinstance(event := await _next(request, ticket), Piece):
        texts.append(event.text)
    return completion.whole("".join(texts), event.reason, event.usage)


class _Stream(StreamingResponse):
    """An answer as server-sent events, which ends when the client goes away, even before the first of them."""

    def __init__(self, ticket: Ticket, chunks: AsyncIterator[str]):
        super().__init__(chunks, media_type="text/event-stream")
        self.ticket = ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.ticket.close()


async def _chunks(ticket: Ticket, first: Piece | End, completion: Completion, asked: ChatRequest) -> AsyncIterator[str]:
    try:
        yield _sent(completion.chunk({"role": "assistant", "content": ""}))
        event: Piece | End | None = first
        while isinstance(event, Piece):
            yield _sent(completion.chunk({"content": event.text}))
            event = await ticket.event()
        if event is not None:
            yield _sent(completion.chunk({}, event.reason))
            if asked.stream_options is not None and asked.stream_options.include_usage:
                yield _sent(completion.counted(event.usage))
    except ApiError as error:
        yield _sent(error.body)
    yield "data: [DONE]\n\n"


def _sent(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
