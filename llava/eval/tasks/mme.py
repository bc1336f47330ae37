"""MME: two yes/no questions per picture, 14 subtasks, scored as the benchmark's own calculation does.

A subtask scores ``100 * (acc + acc_plus)``: the share of questions right and the share of pictures with both right, so 200
at most. Perception is the sum over ten subtasks, cognition over four. Paper: https://arxiv.org/abs/2306.13394
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

from llava.constants import SHORT_ANSWER
from llava.files import excerpt, numbered_lines, numbered_records
from llava.reduction import did_you_mean

from .base import QUESTION, Example, Line, Task, by_picture
from .statistics import Contributions

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUBTASKS = PERCEPTION + COGNITION
FURTHER = ("kind", "naming")  # subtasks of synthetic worlds that MME lacks: scored alike, part of neither half
KNOWN = SUBTASKS + FURTHER
INSTRUCTIONS = (SHORT_ANSWER, "Please answer yes or no.")

# The fields of an entry of ``MME_test.json``.
LISTED = {"question_id": str | int, "question": str, "answer": str, "category": str, "image_file": str}

Answer = tuple[str, str]  # truth ("yes" or "no") and the model's words


def parse_answer(text: str) -> str:
    """``yes``, ``no`` or ``other``: the whole answer, else what its first four characters contain, yes before no.

    As in the benchmark's calculation, which lowers the text and strips nothing: " yes" is yes, "I think yes" is other, and
    "know" is no.
    """
    text = text.lower()
    if text in ("yes", "no"):
        return text
    return next((answer for answer in ("yes", "no") if answer in text[:4]), "other")


def score_pairs(pairs: Sequence[tuple[Answer, Answer]]) -> dict:
    """One subtask's figures from its pictures; precision and recall are of "yes" and leave "other" answers out.

    Returns acc and acc_plus (0 to 1), score (0 to 200), tp, fn, tn, fp, precision, recall, other and pictures.
    """
    if not pairs:
        raise ValueError("a subtask without a picture has no score")
    read = [[(truth, parse_answer(text)) for truth, text in pair] for pair in pairs]
    flat = [answer for pair in read for answer in pair]
    tp, fn, tn, fp = (flat.count(answer) for answer in (("yes", "yes"), ("yes", "no"), ("no", "no"), ("no", "yes")))
    acc = (tp + tn) / len(flat)
    acc_plus = sum(all(truth == answer for truth, answer in pair) for pair in read) / len(read)
    return {
        "score": 100 * (acc + acc_plus),
        "acc": acc,
        "acc_plus": acc_plus,
        "pictures": len(read),
        "tp": tp,
        "fn": fn,
        "tn": tn,
        "fp": fp,
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "recall": tp / (tp + fn) if tp + fn else 0.0,
        "other": len(flat) - tp - fn - tn - fp,
    }


def totals(subtasks: dict[str, dict]) -> dict:
    """Perception, cognition and the sum over the subtasks present, each with its maximum, and a note where some lack.

    Subtasks that MME does not have count only in the sum, and are ``further`` where there are any.
    """
    perception, cognition = ([name for name in half if name in subtasks] for half in (PERCEPTION, COGNITION))
    scores = [sum(subtasks[name]["score"] for name in half) for half in (perception, cognition)]
    missing = [name for name in SUBTASKS if name not in subtasks]
    further = [name for name in FURTHER if name in subtasks]
    scores.append(sum(subtasks[name]["score"] for name in further))
    summary = {
        "score": sum(scores),
        "max_score": 200 * len(subtasks),
        "perception": scores[0],
        "perception_max": 200 * len(perception),
        "cognition": scores[1],
        "cognition_max": 200 * len(cognition),
        "subtasks": subtasks,
        "missing": missing,
    }
    if further:
        summary |= {"further": scores[2], "further_max": 200 * len(further)}
    if missing:
        present = len(SUBTASKS) - len(missing)
        summary["note"] = f"scored over the {present} of {len(SUBTASKS)} subtasks present; without {', '.join(missing)}"
    if missing and further:
        summary["note"] += f"; with {', '.join(further)}, which MME has not"
    return summary


def calculate(folder: str | Path) -> dict:
    """Score a folder of official answer files, ``{subtask}.txt`` with tab-separated picture, question, truth, answer.

    Two consecutive lines are one picture. Returns what ``totals`` does. Raises ValueError naming file and line for
    a line that does not have four fields, a truth that is not yes or no, an odd number of lines, or two lines of two
    pictures.
    """
    folder, subtasks = Path(folder), {}
    for name in KNOWN:
        file = folder / f"{name}.txt"
        if not file.is_file():
            continue
        subtasks[name] = score_pairs(_answer_pairs(file))
    if not subtasks:
        raise FileNotFoundError(f"{folder} has no answer file of MME; expected {SUBTASKS[0]}.txt and so on")
    return totals(subtasks)


def _answer_pairs(file: Path) -> list[tuple[Answer, Answer]]:
    """The two answers of each picture in an official answer file."""
    rows = [(number, text.split("\t")) for number, text in numbered_lines(file)]
    for number, row in rows:
        if len(row) != 4 or row[2].lower() not in ("yes", "no"):
            raise ValueError(f"{file}:{number} is not picture, question, Yes or No, and answer, separated by tabs")
    if len(rows) % 2 or not rows:
        raise ValueError(f"{file} has {len(rows)} lines; each picture needs its two")
    for (_, first), (number, second) in zip(rows[::2], rows[1::2]):
        if first[0] != second[0]:
            raise ValueError(f"{file}:{number} is of {excerpt(second[0])}, the line before of {excerpt(first[0])}")
    answers = [(row[2].lower(), row[3]) for _, row in rows]
    return list(zip(answers[::2], answers[1::2]))


class Mme(Task):
    """MME: ``llava_mme.jsonl`` in LLaVA's layout, or ``MME_test.json`` as the HiMAP fork's download writes it.

    The first takes the truth from where the benchmark keeps it, among the pictures; the second says it itself, and its prompt
    holds both instructions, "Please answer yes or no." and LLaVA's.
    """

    name = "mme"
    questions = ("llava_mme.jsonl", "MME_test.json")
    pictures = answers = "MME_Benchmark_release_version"
    instructions = INSTRUCTIONS
    printed = {"perception": PERCEPTION, "cognition": COGNITION, "perception + cognition": SUBTASKS}

    def read(self) -> Iterator[Example]:
        asked: dict[str, list[str]] = {}
        for where, line in self.distinct(self._listed()) if self.file.suffix == ".json" else self._lines():
            name, category = str(line["question_id"]), line["category"]
            if category not in KNOWN:
                hint = did_you_mean(category, KNOWN) or f"; it has {', '.join(SUBTASKS)}"
                raise ValueError(f"{where}: category={excerpt(category)} of {name} is none of MME's{hint}")
            places = asked.setdefault(name, [])
            places.append(where)
            yield Example(
                key=f"{name}#{len(places)}",
                question_id=name,
                picture=name,
                image=self.images / line["image"],
                text=line["text"],
                label=line["answer"],
                category=category,
            )
        for name, places in asked.items():
            if len(places) != 2:
                raise ValueError(f"{places[-1]}: {name} has {len(places)} question(s), MME asks two of every picture")

    def _lines(self) -> Iterator[tuple[str, Line]]:
        """Place and line of ``llava_mme.jsonl`` with its true answer."""
        truths = lru_cache(maxsize=None)(partial(_read_truth, self.strip_instructions))
        root = self.truth if self.truth.is_dir() else self.images
        for where, line in self.question_lines({**QUESTION, "category": str}):
            if not Path(line["image"]).name:
                raise ValueError(f"{where}: image={excerpt(line['image'])} is no name of a file")
            source, question = _truth_file(root, line["image"]), self.strip_instructions(line["text"])
            if question not in truths(source):
                raise ValueError(f"{source} has no answer to {excerpt(question)}, which {where} asks")
            yield where, {**line, "answer": truths(source)[question]}

    def _listed(self) -> Iterator[tuple[str, Line]]:
        """Name and entry of ``MME_test.json`` under the other file's field names."""
        for where, entry in numbered_records(self.file, LISTED):
            if entry["answer"].lower() not in ("yes", "no"):
                raise ValueError(f"{where}: answer={excerpt(entry['answer'])} must be Yes or No")
            yield where, {**entry, "image": entry["image_file"], "text": f"{entry['question']}\n{SHORT_ANSWER}"}

    def parse(self, text: str) -> str:
        return parse_answer(text)

    def aggregate(self, lines: Sequence[Line]) -> dict:
        pairs: dict[str, list[tuple[Answer, Answer]]] = {}
        for group in _pairs(lines):
            first, second = ((line["label"].lower(), line["text"]) for line in group)
            pairs.setdefault(group[0]["category"], []).append((first, second))
        subtasks = {name: score_pairs(pairs[name]) for name in KNOWN if name in pairs}
        return totals(subtasks)

    @classmethod
    def contributions(cls, lines: Sequence[Line]) -> Contributions:
        """A picture contributes 50 for each right answer and 100 more for both to the mean of its subtask."""
        pairs = _pairs(lines)
        right = [[parse_answer(line["text"]) == line["label"].lower() for line in pair] for pair in pairs]
        value = [50.0 * sum(pair) + 100.0 * all(pair) for pair in right]
        subtasks = [pair[0]["category"] for pair in pairs]
        return Contributions(value, [1.0] * len(value), subtasks, limit=200.0 * len(set(subtasks)))


def _pairs(lines: Sequence[Line]) -> list[list[Line]]:
    """The two answers of every picture. Raises ValueError for a picture that does not have two."""
    groups = by_picture(lines)
    for name, group in groups.items():
        if len(group) != 2:
            raise ValueError(f"{name} has {len(group)} of its two answers; finish the run first")
    return list(groups.values())


def _truth_file(root: Path, image: str) -> Path:
    """Where MME keeps the truth of a picture: in ``questions_answers_YN``, or next to the picture where that has none."""
    picture = root / image
    if picture.parent.name == "images":
        return picture.parent.with_name("questions_answers_YN") / f"{picture.stem}.txt"
    separate = picture.parent / "questions_answers_YN" / f"{picture.stem}.txt"
    return separate if separate.is_file() else picture.with_suffix(".txt")


def _read_truth(strip: Callable[[str], str], file: Path) -> dict[str, str]:
    """Bare question to Yes or No of one picture."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; it holds the true answers of its picture")
    truth = {}
    for number, text in numbered_lines(file):
        question, _, answer = text.rpartition("\t")
        if not question or answer.strip().lower() not in ("yes", "no"):
            raise ValueError(f"{file}:{number} is not a question, a tab, and Yes or No")
        truth[strip(question)] = answer.strip()
    return truth
