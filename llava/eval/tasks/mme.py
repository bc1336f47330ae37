"""MME: two yes/no questions a picture, 14 subtasks, scored as the benchmark's own calculation does.

A subtask scores ``100 * (acc + acc_plus)``: the share of questions right and the share of pictures with both right, so 200
at most. Perception is the sum over ten subtasks, cognition over four. Paper: https://arxiv.org/abs/2306.13394
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from ..task import Example, Line, Task, bootstrap, by_picture, read_jsonl

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUBTASKS = PERCEPTION + COGNITION
INSTRUCTIONS = ("Answer the question using a single word or phrase.", "Please answer yes or no.")

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
    """Perception, cognition and their sum over the subtasks present, each with what it is out of, and a note if some lack."""
    perception, cognition = ([name for name in half if name in subtasks] for half in (PERCEPTION, COGNITION))
    scores = [sum(subtasks[name]["score"] for name in half) for half in (perception, cognition)]
    missing = [name for name in SUBTASKS if name not in subtasks]
    found = {
        "score": sum(scores),
        "max_score": 200 * len(subtasks),
        "perception": scores[0],
        "perception_max": 200 * len(perception),
        "cognition": scores[1],
        "cognition_max": 200 * len(cognition),
        "subtasks": subtasks,
        "missing": missing,
    }
    if missing:
        found["note"] = (
            f"scored over the {len(subtasks)} of {len(SUBTASKS)} subtasks present; without {', '.join(missing)}"
        )
    return found


def calculate(folder: str | Path) -> dict:
    """Score a folder of official answer files, ``{subtask}.txt`` with tab-separated picture, question, truth, answer.

    Two lines following each other are one picture. Returns what ``totals`` does. Raises ValueError naming file and line for
    a line that has not four fields, a truth that is not yes or no, an odd number of lines, or two lines of two pictures.
    """
    folder, subtasks = Path(folder), {}
    for name in SUBTASKS:
        file = folder / f"{name}.txt"
        if not file.is_file():
            continue
        rows = [text.split("\t") for text in file.read_text(encoding="utf-8").splitlines()]
        for number, row in enumerate(rows, start=1):
            if len(row) != 4 or row[2].lower() not in ("yes", "no"):
                raise ValueError(f"{file}:{number} is not picture, question, Yes or No, and answer, separated by tabs")
        if len(rows) % 2 or not rows:
            raise ValueError(f"{file} has {len(rows)} lines; each picture needs its two")
        for number in range(0, len(rows), 2):
            if rows[number][0] != rows[number + 1][0]:
                raise ValueError(
                    f"{file}:{number + 2} is of {rows[number + 1][0]}, the line before of {rows[number][0]}"
                )
        answers = [(row[2].lower(), row[3]) for row in rows]
        subtasks[name] = score_pairs(list(zip(answers[::2], answers[1::2])))
    if not subtasks:
        raise FileNotFoundError(f"{folder} has no answer file of MME; expected {SUBTASKS[0]}.txt and so on")
    return totals(subtasks)


class Mme(Task):
    """MME in LLaVA's layout: ``llava_mme.jsonl`` and ``MME_Benchmark_release_version`` with pictures and truth."""

    name = "mme"

    def sources(self) -> list[Path]:
        return [self.data / "llava_mme.jsonl"]

    def read(self) -> Iterator[Example]:
        file, root = self.data / "llava_mme.jsonl", self.data / "MME_Benchmark_release_version"
        if not file.is_file():
            raise FileNotFoundError(f"{file} is not there; --data is the folder that holds llava_mme.jsonl")
        truths = lru_cache(maxsize=None)(_read_truth)
        asked: dict[str, list[str]] = {}
        for line in read_jsonl(file, ("question_id", "image", "text", "category")):
            name, category = line["question_id"], line["category"]
            if category not in SUBTASKS:
                near = get_close_matches(category, SUBTASKS, n=1)
                raise ValueError(f"{file}: category={category!r} of {name} is none of MME's; " + _hint(near))
            question, seen = _bare(line["text"]), asked.setdefault(name, [])
            if question in seen:
                raise ValueError(f"{file}: {name} asks twice {question!r}")
            seen.append(question)
            source = _truth_file(root, line["image"])
            truth = truths(source)
            if question not in truth:
                raise ValueError(f"{source} has no answer to {question!r}, which {file.name} asks of {name}")
            yield Example(
                key=f"{name}#{len(seen)}",
                question_id=name,
                picture=name,
                image=root / line["image"],
                text=line["text"],
                label=truth[question],
                category=category,
            )
        alone = [name for name, seen in asked.items() if len(seen) != 2]
        if alone:
            raise ValueError(
                f"{file}: {alone[0]} has {len(asked[alone[0]])} question(s), MME asks two of every picture"
            )

    def parse(self, text: str) -> str:
        return parse_answer(text)

    def aggregate(self, lines: Sequence[Line]) -> dict:
        pairs: dict[str, list[tuple[Answer, Answer]]] = {}
        worth, where = [], []
        for name, group in by_picture(lines).items():
            if len(group) != 2:
                raise ValueError(f"{name} has {len(group)} of its two answers; finish the run first")
            category = group[0]["category"]
            pairs.setdefault(category, []).append(tuple((line["label"].lower(), line["text"]) for line in group))
            right = [parse_answer(line["text"]) == line["label"].lower() for line in group]
            worth.append(50 * sum(right) + 100 * all(right))
            where.append(category)
        subtasks = {name: score_pairs(pairs[name]) for name in SUBTASKS if name in pairs}
        return {**totals(subtasks), "score_interval": bootstrap(worth, [1] * len(worth), where)}


def _hint(near: list[str]) -> str:
    return f"did you mean {near[0]!r}?" if near else f"it has {', '.join(SUBTASKS)}"


def _bare(text: str) -> str:
    """The question without the instructions that one file or the other appends, with single blanks."""
    for instruction in INSTRUCTIONS:
        text = text.replace(instruction, " ")
    return " ".join(text.split())


def _truth_file(root: Path, image: str) -> Path:
    """Where MME keeps the truth of a picture: apart from a folder ``images``, else beside the picture."""
    picture = root / image
    if picture.parent.name == "images":
        return picture.parent.with_name("questions_answers_YN") / f"{picture.stem}.txt"
    apart = picture.parent / "questions_answers_YN" / f"{picture.stem}.txt"
    return apart if apart.is_file() else picture.with_suffix(".txt")


def _read_truth(file: Path) -> dict[str, str]:
    """Question to Yes or No of one picture."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there; it holds the true answers of its picture")
    truth = {}
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        question, _, answer = text.rpartition("\t")
        if not question or answer.strip().lower() not in ("yes", "no"):
            raise ValueError(f"{file}:{number} is not a question, a tab, and Yes or No")
        truth[_bare(question)] = answer.strip()
    return truth
