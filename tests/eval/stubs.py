"""A subject that answers at once, for tests of everything around a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llava.eval.ask.subject import Generation, Reply


class StubSubject:
    """Replies with ``reply(text)``, counts what it is asked, and can be interrupted at a given question."""

    def __init__(self, reply: Callable[[str], str] = lambda text: "Yes", stop_at: int | None = None):
        self.reply, self.stop_at = reply, stop_at
        self.encoded: list[tuple[int, int]] = []
        self.asked: list[str] = []
        self.batches: list[int] = []

    def encode(self, images: Sequence, plan=()) -> list[str]:
        self.encoded += [image.size for image in images]
        return [f"features {len(self.encoded)}"] * len(images)

    def answer(self, texts, features, plan, generation: Generation) -> list[Reply]:
        if self.stop_at is not None and len(self.asked) + len(texts) > self.stop_at:
            raise KeyboardInterrupt
        self.asked += texts
        self.batches.append(len(texts))
        keep = plan[0].keep if plan and plan[0].keep is not None else 576
        kept = [576, keep]
        cost = {"visual_tokens": sum(kept) / 2, "total_flops": 1e9 * keep, "kv_bytes": 1000 * keep}
        return [Reply(self.reply(text), kept, cost) for text in texts]

    def length(self, text: str, image) -> int:
        return 0
