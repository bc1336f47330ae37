"""What a ``Chat`` answers, without a server."""

from __future__ import annotations

from llava.serve.openai.chat import End, Job, Question, Sampling


def answer(chat, *questions, plan=None, **sampling):
    """Answers and usage of questions, all in one batch."""
    asked = [Question(turns, Sampling(**sampling), plan) for turns in questions]
    heard: list[list] = [[] for _ in asked]
    jobs = [Job(chat.prepare(question, 12), events.append) for question, events in zip(asked, heard)]
    chat.generate(jobs)
    assert all(isinstance(events[-1], End) for events in heard)
    return [("".join(event.text for event in events[:-1]), events[-1]) for events in heard]
