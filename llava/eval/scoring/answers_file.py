"""Answers files as LLaVA's scripts write them: the questions of a file, or a chunk of them, through the one loop.

``model_vqa_loader``, ``model_vqa`` and ``model_vqa_science`` are its command lines. Beside ``answers/NAME.jsonl`` a folder
``answers/NAME.run`` (see ``results/folder.py``) takes the answers as they come: a stopped command goes on where it was, and one with
other settings is refused. The answers file itself is written when every question has its answer, in their order.
"""

from __future__ import annotations

import argparse
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import shortuuid

from llava.cli.console import STOPPED, progress_bar, terminal
from llava.cli.flags import add_model_flags, add_reduction_flags, load_from_flags
from llava.conversation import conversation_mode, get_conversation
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import read_config
from llava.model.checkpoint import find_folder
from llava.reduction import Stage
from llava.utils import exit_code

from ..ask.controls import plans_from
from ..ask.loop import Answer, answers
from ..ask.measure import configuration
from ..ask.subject import Generation, LlavaSubject, Subject
from ..results.folder import Run
from ..tasks.base import Example, Line

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Questions:
    """What a command line asks; ``recorded`` is, by key, the question_id and prompt that its answers file shows.

    The other members are what a run's configuration takes from a task.
    """

    name: str
    file: Path
    examples: list[Example]
    recorded: dict[str, Line]
    max_new_tokens: int

    def fingerprint(self) -> str:
        """A checksum of the file and of which of its questions are asked."""
        asked = "\n".join(example.key for example in self.examples).encode()
        return f"{zlib.crc32(asked, zlib.crc32(self.file.read_bytes())):08x}"


def parser(description: str, conv_mode: str, max_new_tokens: int) -> argparse.ArgumentParser:
    """LLaVA's flags, those of the model and every reduction flag; ``conv_mode`` and ``max_new_tokens`` are defaults.

    A model and a question file must be given: LLaVA's defaults for them are files that nobody has.
    """
    flags = argparse.ArgumentParser(description=description)
    add_model_flags(flags)
    flags.set_defaults(conv_mode=conv_mode)
    group = flags.add_argument_group("questions and answers")
    group.add_argument("--image-folder", "--image_folder", type=Path, default=Path(""), help="default: this folder")
    group.add_argument("--question-file", "--question_file", type=Path, required=True)
    group.add_argument("--answers-file", "--answers_file", type=Path, default=Path("answer.jsonl"))
    group.add_argument("--num-chunks", "--num_chunks", type=int, default=1, help="how many share the questions")
    group.add_argument("--chunk-idx", "--chunk_idx", type=int, default=0, help="which of the chunks this is, from 0")
    group.add_argument("--batch-size", "--batch_size", type=int, default=8, help="questions at once (default: 8)")
    group = flags.add_argument_group("generation")
    group.add_argument("--temperature", type=float, default=0.2, help="0 is greedy (default: 0.2)")
    group.add_argument("--top-p", "--top_p", type=float)
    group.add_argument("--num-beams", "--num_beams", type=int, default=1)
    group.add_argument("--max-new-tokens", "--max_new_tokens", type=int, default=max_new_tokens)
    add_reduction_flags(flags)
    return flags


def questions_from(name: str, arguments: argparse.Namespace, found: Iterable[tuple[str, Line]]) -> Questions:
    """This chunk of the questions found: each a place in the file, and question_id, text, and perhaps image and prompt.

    ``prompt`` is what the answers file shows where that is not the text; an id may be a word or a number and stays so.
    """
    examples, recorded = [], {}
    for number, (where, line) in enumerate(found):
        image, text = line.get("image"), line["text"]
        if not (isinstance(text, str) and isinstance(image, str | None)):
            raise ValueError(f"{where}: text={text!r} and image={image!r} must both be words")
        key = str(number)
        recorded[key] = {"question_id": line["question_id"], "prompt": line.get("prompt", text)}
        examples.append(
            Example(
                key=key,
                question_id=str(line["question_id"]),
                picture=image or key,
                image=arguments.image_folder / image if image else None,
                text=text,
                label="",
                category=str(line.get("category", "")),
            )
        )
    if not examples:
        raise ValueError(f"--question-file {arguments.question_file} holds no question")
    chosen = chunk(examples, arguments.num_chunks, arguments.chunk_idx)
    return Questions(name, arguments.question_file, chosen, recorded, arguments.max_new_tokens)


def chunk(items: Sequence, count: int, number: int) -> list:
    """Chunk ``number`` (from 0) of ``count``, each but the last ceil(len / count) long; those at the end may be empty.

    LLaVA's helper raises IndexError for an empty one, and with it one GPU of a run over several fails.
    """
    if count < 1 or not 0 <= number < count:
        raise ValueError(f"--chunk-idx {number} of --num-chunks {count} is no chunk; give 0 <= index < number")
    size = -(-len(items) // count)
    return list(items[number * size : (number + 1) * size])


def ask(
    arguments: argparse.Namespace,
    questions: Questions,
    subject_of: Callable[..., Subject] | None = None,
    **settings: object,
) -> None:
    """Answer the questions with the model and the plan of a command line, and write the answers file.

    ``subject_of`` makes the subject of tokenizer, model, image processor and template (default: LlavaSubject); ``settings`` are what else decides the
    answers. A picture that cannot be read leaves its questions with an empty answer and the reason in their metadata.
    """
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size {arguments.batch_size} must be at least 1")
    name = get_model_name_from_path(arguments.model_path)
    arguments.conv_mode = arguments.conv_mode or conversation_mode(name)
    get_conversation(arguments.conv_mode)
    generation = Generation(arguments.max_new_tokens, arguments.temperature, arguments.top_p, arguments.num_beams)
    folder = find_folder(arguments.model_path, "model")
    given = argparse.Namespace(**vars(arguments), data=arguments.question_file, limit=None)
    given.reduction = [arguments.reduction] if arguments.reduction else None
    (plan,) = plans_from(given, read_config(folder))
    given.reduction = None
    config = {**configuration(given, questions, plan, folder), "decoding": asdict(generation), **settings}
    with Run(arguments.answers_file.with_suffix(".run"), config) as run:
        if run.done:
            logger.info("%d of %d answers are there already", len(run.done), len(questions.examples))
        if len(run.done) < len(questions.examples):
            tokenizer, model, image_processor, _ = load_from_flags(given)
            subject = (subject_of or LlavaSubject)(tokenizer, model, image_processor, arguments.conv_mode)
            answer_all(subject, plan, questions, run, arguments.batch_size, generation)
        order = {example.key: place for place, example in enumerate(questions.examples)}
        lines = [answer_line(line, questions, name) for line in run.gather(order)]
    arguments.answers_file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    failed = sum("error" in line["metadata"] for line in lines)
    if failed:
        logger.warning("%d pictures could not be read; the metadata of their answers say why", failed)
    logger.info("%d answers in %s", len(lines), arguments.answers_file)


def answer_all(
    subject: Subject, plan: list[Stage], questions: Questions, run: Run, batch_size: int, generation: Generation
) -> None:
    """Append a line for every question that the run has none of yet."""
    with progress_bar(terminal()) as progress:
        bar = progress.add_task(questions.name, total=len(questions.examples), completed=len(run.done))
        for answer in answers(
            subject,
            [plan],
            questions.examples,
            wanted=lambda _, example: example.key not in run.done,
            batch_size=batch_size,
            generation=generation,
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
    about = ("kept", "seconds", "tower_seconds", "error")
    return {
        **questions.recorded[line["key"]],
        "text": line["text"],
        "answer_id": line["answer_id"],
        "model_id": model_id,
        "metadata": {name: line[name] for name in about if name in line},
    }


def launch(
    work: Callable[[argparse.Namespace], None], flags: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> int:
    """Read a command line and do its work; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    given = flags.parse_args(arguments)
    return exit_code(lambda: work(given), stopped=STOPPED)
