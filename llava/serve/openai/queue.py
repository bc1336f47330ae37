"""The turn of every request: those that may share a batch are answered together, others one after another.

All of it runs on the server's event loop, except ``Chat.generate``, which has a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from .chat import Chat, End, Job, Piece, Prompt
from .errors import ApiError

logger = logging.getLogger(__name__)


class Ticket:
    """A request's place in the queue, and the events of its answer."""

    def __init__(self, queue: Queue):
        self._queue = queue
        self._events: asyncio.Queue[Piece | End | ApiError] = asyncio.Queue()
        self.job: Job | None = None
        self.begun = self.ended = False

    def wait_for(self, prompt: Prompt) -> None:
        """Stand in the queue with a prompt."""
        loop = asyncio.get_running_loop()
        self.job = Job(prompt, lambda event: loop.call_soon_threadsafe(self.put, event))
        self._queue.add(self)

    def put(self, event: Piece | End | ApiError) -> None:
        """Hand over an event, on the event loop."""
        self.begun = True
        self.ended = self.ended or not isinstance(event, Piece)
        self._events.put_nowait(event)

    async def event(self, seconds: float | None = None) -> Piece | End | None:
        """The next event; None where there was none for some seconds. Raises the ApiError that ended the answer."""
        try:
            event = await asyncio.wait_for(self._events.get(), seconds)
        except TimeoutError:
            return None
        if isinstance(event, ApiError):
            raise event
        return event

    def close(self) -> None:
        """Give the place back; an answer that is being written ends at its next token."""
        if self.job is not None:
            self.job.cancelled.set()
        self._queue.leave(self)


class Queue:
    """Requests on their way through one ``Chat``.

    batch: prompts in one ``generate``. most: requests at once, waiting or being answered.
    """

    def __init__(self, chat: Chat, batch: int, most: int):
        self.chat, self.batch, self.most = chat, batch, most
        self._open: set[Ticket] = set()
        self._waiting: list[Ticket] = []
        self._arrived = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="generate")

    @property
    def open(self) -> int:
        """Requests that are waiting or being answered."""
        return len(self._open)

    @property
    def waiting(self) -> int:
        """Requests whose turn has not come."""
        return len(self._waiting)

    def enter(self) -> Ticket:
        """A place for a request. Raises ApiError with status 429 where there is none left."""
        if len(self._open) >= self.most:
            raise ApiError(429, f"{self.most} requests are being answered already; try again later", code="queue_full")
        ticket = Ticket(self)
        self._open.add(ticket)
        return ticket

    def add(self, ticket: Ticket) -> None:
        """Put a ticket with a job at the end."""
        self._waiting.append(ticket)
        self._arrived.set()

    def leave(self, ticket: Ticket) -> None:
        """Forget a ticket."""
        self._open.discard(ticket)
        if ticket in self._waiting:
            self._waiting.remove(ticket)

    async def run(self) -> None:
        """Answer what comes until cancelled."""
        while True:
            await self._arrived.wait()
            if not self._waiting:
                self._arrived.clear()
                continue
            await self._answer(self._next())

    async def stop(self) -> None:
        """End all answers, and wait for the one that is being written."""
        for ticket in list(self._open):
            ticket.close()
        await asyncio.to_thread(self._executor.shutdown)

    def _next(self) -> list[Ticket]:
        """The oldest request, and those after it that may share its batch."""
        group = self._group(self._waiting[0])
        alike = [ticket for ticket in self._waiting if self._group(ticket) == group]
        batch = self._waiting[:1] if group is None else alike[: self.batch]
        self._waiting = [ticket for ticket in self._waiting if ticket not in batch]
        return batch

    @staticmethod
    def _group(ticket: Ticket) -> object:
        return None if ticket.job is None else ticket.job.prompt.group

    async def _answer(self, batch: list[Ticket]) -> None:
        """Answer a batch; where one of its prompts cannot be answered, each separately."""
        jobs = [ticket.job for ticket in batch if ticket.job is not None]
        future = asyncio.get_running_loop().run_in_executor(self._executor, self.chat.generate, jobs)
        await asyncio.wait([future])
        error = future.exception()
        if error is None:
            return
        if isinstance(error, ValueError) and len(batch) > 1:
            for ticket in batch:
                if not (ticket.begun or ticket.job is None or ticket.job.cancelled.is_set()):
                    await self._answer([ticket])
            return
        if not isinstance(error, ValueError):
            logger.error("an answer failed", exc_info=error)
        for ticket in batch:
            if not ticket.ended:
                ticket.put(_refusal(error))


def _refusal(error: BaseException) -> ApiError:
    if isinstance(error, ValueError):
        return ApiError(400, str(error), code="invalid_plan")
    return ApiError(500, f"the model failed with {type(error).__name__}; the server's log says more")
