"""Answers files as LLaVA's scripts write them: the questions of a file, or a chunk of them, through the one loop.

``model_vqa_loader``, ``model_vqa``, ``model_vqa_science`` and ``model_vqa_mmbench`` are its command lines. Next to ``answers/NAME.jsonl`` a folder
``answers/NAME.run`` (see ``results/folder.py``) takes each answer when it is ready: a stopped command resumes, asks questions
that failed again, and refuses other settings. The answers file itself is written when every question has its line, in the
order of the questions.
"""

from __future__ import annotations

import argparse
import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import shortuuid

from llava.cli.console import progress_bar, terminal
from llava.cli.flags import add_model_flags, add_reduction_flags, model_spec, plan_spec
from llava.cli.settings import ModelSpec, PlanSpec, check_least
from llava.files import require_fields, write_jsonl
from llava.reduction import Stage
from llava.shards import picture_folder

from ..ask.configuration import configuration
from ..ask.loop import Answer, answers
from ..ask.opening import open_checkpoint
from ..ask.plans import plans_from
from ..ask.subject import Generation, LlavaSubject, Subject
from ..results.folder import Run
from ..tasks.base import Example, Line

logger = logging.getLogger(__name__)

# The fields of an answer, in LLaVA's order; questions that have no rounds lack some of them.
FIELDS = ("question_id", "round_id", "prompt", "text", "options", "option_char", "answer_id", "model_id", "metadata")


@dataclass(frozen=True)
class Questions:
    """The questions of a file, a ``QuestionSet``; ``recorded`` is, by key, the question_id, prompt and whatever else its answers show."""

    name: str
    data: Path
    examples: list[Example]
    recorded: dict[str, Line]
    max_new_tokens: int
    instructed: bool = True

    def fingerprint(self) -> str:
        """A checksum of the file and of which of its questions are asked."""
        keys = "\n".join(example.key for example in self.examples).encode()
        return f"{zlib.crc32(keys, zlib.crc32(self.data.read_bytes())):08x}"


@dataclass(frozen=True)
class AnswerSettings:
    """The model that answers a question file, its plan, the answers file, and how answers are drawn.

    retry_failed: ask again the questions that failed before, for example because a picture could not be read.
    Raises ValueError for a batch size below 1.
    """

    model: ModelSpec
    answers: Path
    plan: PlanSpec = PlanSpec()
    generation: Generation = Generation()
    batch_size: int = 8
    retry_failed: bool = True

    def __post_init__(self) -> None:
        check_least(1, batch_size=self.batch_size)


def parser(description: str, max_new_tokens: int) -> argparse.ArgumentParser:
    """LLaVA's flags, those of the model and every reduction flag; ``max_new_tokens`` is a default.

    A model and a question file must be given: LLaVA's defaults name files of its authors.
    """
    flags = argparse.ArgumentParser(description=description)
    add_model_flags(flags)
    group = flags.add_argument_group("questions and answers")
    group.add_argument(
        "--image-folder", "--image_folder", type=Path, default=Path(""), help="or tar shards; default: this folder"
    )
    group.add_argument("--question-file", "--question_file", type=Path, required=True)
    group.add_argument("--answers-file", "--answers_file", type=Path, default=Path("answer.jsonl"))
    group.add_argument(
        "--num-chunks", "--num_chunks", type=int, default=1, help="chunks that the questions are divided into"
    )
    group.add_argument(
        "--chunk-idx", "--chunk_idx", type=int, default=0, help="which of the chunks to ask, counted from 0"
    )
    group.add_argument("--batch-size", "--batch_size", type=int, default=8, help="questions at once (default: 8)")
    again = "ask again the questions whose picture was unreadable (default: yes)"
    group.add_argument("--retry-failed", action=argparse.BooleanOptionalAction, default=True, help=again)
    group = flags.add_argument_group("generation")
    group.add_argument("--temperature", type=float, default=0.2, help="0 is greedy (default: 0.2)")
    group.add_argument("--top-p", "--top_p", type=float)
    group.add_argument("--num-beams", "--num_beams", type=int, default=1)
    group.add_argument("--max-new-tokens", "--max_new_tokens", type=int, default=max_new_tokens)
    add_reduction_flags(flags)
    return flags


def answer_settings(options: argparse.Namespace, usual_conv_mode: str) -> AnswerSettings:
    """The settings of a command line of ``parser``; ``usual_conv_mode`` is for checkpoints that name no template."""
    return AnswerSettings(
        model=model_spec(options, usual_conv_mode),
        answers=options.answers_file,
        plan=plan_spec(options),
        generation=Generation(options.max_new_tokens, options.temperature, options.top_p, options.num_beams),
        batch_size=options.batch_size,
        retry_failed=options.retry_failed,
    )


def questions_from(
    name: str,
    file: Path,
    numbered: Iterable[tuple[str, Line]],
    images: Path,
    max_new_tokens: int,
    share: tuple[int, int] = (0, 1),
    shown: Sequence[str] = (),
) -> Questions:
    """Chunk ``share`` = (i, n) of the questions of a file: each with its place, a question_id, a text, and perhaps an image.

    ``prompt`` is what the answers file shows where that is not the text; an id may be a word or a number and stays so.
    shown: further fields that the answers show.
    Raises ValueError naming the place of what is no question.
    """
    examples, recorded, images = [], {}, picture_folder(images)
    for number, (place, line) in enumerate(numbered):
        require_fields(place, line, {"question_id": str | int, "text": str, "image": str | None})
        image, text, key = line.get("image"), line["text"], str(number)
        recorded[key] = {"question_id": line["question_id"], "prompt": line.get("prompt", text)}
        recorded[key] |= {name: line[name] for name in shown}
        examples.append(
            Example(
                key=key,
                question_id=str(line["question_id"]),
                picture=image or key,
                image=images / image if image else None,
                text=text,
                label="",
                category=str(line.get("category", "")),
            )
        )
    if not examples:
        raise ValueError(f"--question-file {file} holds no question")
    index, count = share
    return Questions(name, file, chunk(examples, count, index), recorded, max_new_tokens)


def chunk(items: Sequence, count: int, number: int) -> list:
    """Chunk ``number`` (from 0) of ``count``, each but the last ceil(len / count) long; those at the end may be empty.

    LLaVA's helper raises IndexError for an empty one, and with it one GPU of a run over several fails.
    """
    if count < 1 or not 0 <= number < count:
        raise ValueError(f"--chunk-idx {number} of --num-chunks {count} is no chunk; give 0 <= index < number")
    size = -(-len(items) // count)
    return list(items[number * size : (number + 1) * size])


def write_answers(
    settings: AnswerSettings,
    questions: Questions,
    wrap: Callable[[LlavaSubject], Subject] | None = None,
    **more: object,
) -> None:
    """Answer the questions and write the answers file.

    wrap: turns the loaded model into the subject that answers. more: what else decides the answers, for the run's
    configuration. A question whose picture cannot be read has an empty answer with the reason in its metadata; when the
    call is repeated it is asked again, unless the settings say otherwise. Raises ValueError and OSError as ``Run``
    does.
    """
    model = open_checkpoint(settings.model)
    (plan,) = plans_from(settings.plan, model.config)
    config = configuration(model, questions, plan, settings.batch_size)
    config |= {"decoding": asdict(settings.generation), **more}
    with Run(settings.answers.with_suffix(".run"), config) as run:
        if settings.retry_failed:
            run.retry_failed()
        if run.done:
            logger.info("%d of %d answers are there already", len(run.done), len(questions.examples))
        if len(run.done) < len(questions.examples):
            subject = model.subject()
            answer_all(wrap(subject) if wrap else subject, plan, questions, run, settings)
        order = {example.key: place for place, example in enumerate(questions.examples)}
        lines = [answer_line(line, questions, settings.model.name) for line in run.gather(order)]
    write_jsonl(settings.answers, lines)
    failed = sum("error" in line["metadata"] for line in lines)
    if failed:
        logger.warning(
            "%d questions failed; the metadata of their answers say why, the same command asks them again", failed
        )
    logger.info("%d answers in %s", len(lines), settings.answers)


def answer_all(subject: Subject, plan: list[Stage], questions: Questions, run: Run, settings: AnswerSettings) -> None:
    """Append a line for every question for which the run has none yet."""
    with progress_bar(terminal()) as progress:
        bar = progress.add_task(questions.name, total=len(questions.examples), completed=len(run.done))
        for answer in answers(
            subject,
            [plan],
            questions.examples,
            wanted=lambda _, example: example.key not in run.done,
            batch_size=settings.batch_size,
            generation=settings.generation,
        ):
            run.append(run_line(answer))
            progress.advance(bar)


def run_line(answer: Answer) -> Line:
    """An answer as the run's folder keeps it."""
    line = {"key": answer.example.key, "answer_id": shortuuid.uuid()}
    if answer.reply is None:
        return {**line, "text": "", "error": answer.error}
    seconds = {"seconds": round(answer.seconds, 6), "tower_seconds": round(answer.tower_seconds, 6)}
    return {**line, "text": answer.reply.text, "kept": answer.reply.kept, **seconds}


def answer_line(line: Line, questions: Questions, model_id: str) -> Line:
    """A line of an answers file, its fields in LLaVA's order; metadata are visual tokens by layer and seconds."""
    measured = ("kept", "seconds", "tower_seconds", "error")
    whole = {
        **questions.recorded[line["key"]],
        "text": line["text"],
        "answer_id": line["answer_id"],
        "model_id": model_id,
        "metadata": {name: line[name] for name in measured if name in line},
    }
    return {name: whole[name] for name in FIELDS if name in whole}
