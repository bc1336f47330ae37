"""Questions about things: true of the scene by an independent reading of its boxes, and their words tell nothing."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from llava.things.pictures import Thing
from llava.things.world import Conversations, Placed, Scene
from llava.things.world.balance import counterweights
from llava.things.world.names import DOUBTFUL, NUMBER_WORDS, alike, colour_of, may_be, plural, with_article
from llava.things.world.questions import Questions
from llava.worlds.files import BOX
from tests.things.world.fake import NAMES, fake_world

ROWS, COLUMNS = ("top", "center", "bottom"), ("left", "center", "right")
CELL = "(?:at|in) the ((?:top|center|bottom)(?: left| center| right)?)"
THING = re.compile(rf"Is the thing {CELL} (.+)")
SUBTASKS = ("existence", "count", "position", "color", "kind", "naming")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return fake_world(tmp_path_factory.mktemp("things"))


@pytest.fixture(scope="module")
def questions(world):
    return Questions(world)


@pytest.fixture(scope="module")
def conversations(questions):
    return Conversations(questions)


@pytest.fixture(scope="module")
def scenes(world):
    return [world.scene(3, number, least=1 + number % 3) for number in range(150)]


def in_cell(scene: Scene, cell: str) -> Placed:
    """The one thing in a cell."""
    row, column = cell.split() if " " in cell else (cell, "center")
    third = 336 / 3
    left, top = COLUMNS.index(column) * third, ROWS.index(row) * third
    inside = []
    for item in scene.items:
        x, y = (item.box[0] + item.box[2]) / 2, (item.box[1] + item.box[3]) / 2
        if left <= x < left + third and top <= y < top + third:
            inside.append(item)
    assert len(inside) == 1, f"{cell} names no one thing of {scene}"
    return inside[0]


def lone(scene: Scene, name: str) -> Placed:
    """The thing of this name, which is there once."""
    (item,) = (item for item in scene.items if item.name == name)
    return item


def is_said(item: Placed, what: str) -> bool | None:
    """Whether "red", "an animal" or "a heron" is true of a thing; None where that is open to doubt."""
    if what in {"black", "blue", "brown", "green", "orange", "pink", "purple", "red", "white", "yellow"}:
        return colour_of(item.name) == what if colour_of(item.name) else None
    noun = re.sub("^an? ", "", what)
    if noun in NAMES or noun == "piece of clothing":
        may = noun in may_be(item.thing)
        return may and (noun == item.kind and item.name not in DOUBTFUL or None)
    return noun == item.name or (None if alike(noun, item.name) else False)


def truth(scene: Scene, question: str) -> bool:
    """An independent reading of every yes/no question."""
    numbers = Counter(item.name for item in scene.items)
    question = question.rstrip("?")
    if said := re.fullmatch("Is there only one (.+) in the image", question):
        return numbers[said[1]] == 1
    if said := re.fullmatch(r"Are there (\w+) (.+) in the image", question):
        return {plural(name): number for name, number in numbers.items()}[said[2]] == NUMBER_WORDS.index(said[1])
    if said := re.fullmatch("Is there (.+) in th(?:is|e) image", question):
        found = {is_said(item, said[1]) for item in scene.items}
        assert True in found or found == {False}, question
        return True in found
    if said := THING.fullmatch(question):
        told = is_said(in_cell(scene, said[1]), said[2])
        assert told is not None, question
        return told
    if said := re.fullmatch("Is the (.+) in the (left|right|top|bottom) half of the image", question):
        left, top, right, bottom = lone(scene, said[1]).box
        value = (left + right if said[2] in ("left", "right") else top + bottom) / 2
        assert abs(value - 168) > 15
        return (value < 168) == (said[2] in ("left", "top"))
    said = re.fullmatch("Is the (.+?) (to the left of|to the right of|above|below) the (.+)", question)
    assert said, question
    one, other = (lone(scene, name).box for name in said.group(1, 3))
    first = 0 if said[2].startswith("to") else 1
    value, beside = (box[first] + box[first + 2] for box in (one, other))
    assert abs(value - beside) > 80
    return (value < beside) == (said[2] in ("to the left of", "above"))


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_the_first_is_true_and_the_second_is_not(subtask, questions, scenes):
    asked = 0
    for number, scene in enumerate(scenes):
        pair = questions.yes_no_pair(subtask, scene, np.random.default_rng(number))
        if pair is not None:
            asked += 1
            assert [truth(scene, question) for question in pair] == [True, False], pair
    assert asked > 40


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_words_tell_nothing(subtask, questions, scenes):
    """No word is much oftener in what is right than in what is wrong."""
    counts = defaultdict(lambda: [0, 0])
    for number in range(900):
        pair = questions.yes_no_pair(subtask, scenes[number % 150], np.random.default_rng(number))
        for half, question in enumerate(pair or ()):
            for word in set(question.rstrip("?").split()):
                counts[word][half] += 1
    often = {word: (yes, no) for word, (yes, no) in counts.items() if yes + no > 120}
    assert often and all(abs(yes - no) < 0.16 * (yes + no) + 3 * (yes + no) ** 0.5 for yes, no in often.values()), often


def test_open_answers_are_those_of_the_scene(questions, scenes):
    kinds = Counter()
    for number, scene in enumerate(scenes):
        numbers = Counter(item.name for item in scene.items)
        asked = questions.open_questions(scene, np.random.default_rng(number))
        assert asked and len({question for question, _, _ in asked}) == len(asked)
        for question, answer, options in asked:
            kinds[" ".join(question.split()[:2])] += 1
            assert options.count(answer) == 1 and len(set(options)) == len(options) > 1
            if said := re.fullmatch(rf"What is {CELL}\?", question):
                assert in_cell(scene, said[1]).name == answer
                assert not any(alike(option, answer) for option in options if option != answer)
            elif said := re.fullmatch(rf"What (color|kind of thing) is (?:the thing )?{CELL}\?", question):
                item = in_cell(scene, said[2])
                assert said[1] == "color" or item.name not in DOUBTFUL
                assert answer == (colour_of(item.name) if said[1] == "color" else item.kind)
            elif said := re.fullmatch(r"Where is the (.+)\?", question):
                assert in_cell(Scene((lone(scene, said[1]),), "", ()), answer)
            elif said := re.fullmatch(r"How many (.+) are there\?", question):
                there = {plural(name): count for name, count in numbers.items()}
                assert NUMBER_WORDS[there.get(said[1], 0)] == answer
            elif said := re.fullmatch(r"Is the (.+) (?:on|at) the (left|top) or the (right|bottom)\?", question):
                assert truth(scene, f"Is the {said[1]} in the {answer} half of the image?")
            else:
                assert question == "What is this?" and [answer] == list(numbers)
    assert (
        set(kinds) >= {"What is", "What color", "What kind", "Where is", "How many", "Is the"}
        and min(kinds.values()) > 10
    )


def test_choices_have_one_right_answer_in_any_place(questions, scenes):
    letters = Counter()
    for number, scene in enumerate(scenes):
        problem = questions.multiple_choice(scene, np.random.default_rng(number))
        asked = questions.open_questions(scene, np.random.default_rng(number))
        right = {question: answer for question, answer, _ in asked}
        assert problem["choices"][problem["answer"]] == right[problem["question"]]
        assert len(set(problem["choices"])) == len(problem["choices"])
        assert len(problem["choices"]) == min(4, max(len(options) for *_, options in asked))
        letters[problem["answer"]] += 1
    assert min(letters[place] for place in range(4)) > 15


def test_captions_name_all_with_their_places(questions, scenes):
    for number, scene in enumerate(scenes):
        said = questions.caption(scene, np.random.default_rng(number))[1]
        for name, count in Counter(item.name for item in scene.items).items():
            words = with_article(name) if count == 1 else f"{NUMBER_WORDS[count]} {plural(name)}"
            assert words in said.lower()
            if place := re.search(f"{re.escape(words)} {CELL}", said.lower()) if count == 1 else None:
                cell = place[1]
                if " " in cell or cell == "center":
                    assert in_cell(Scene((lone(scene, name),), "", ()), cell)


def test_boxes_are_those_of_things_that_are_there_once(questions, scenes):
    for scene in scenes:
        numbers = Counter(item.name for item in scene.items)
        told = dict(questions.boxes(scene))
        assert set(told) == {name for name, count in numbers.items() if count == 1}
        for name, box in told.items():
            assert box == pytest.approx([value / 336 for value in lone(scene, name).box])


def test_conversations_are_balanced_and_in_the_words_of_the_benchmarks(conversations, scenes):
    answers, endings, sorts = Counter(), Counter(), Counter()
    for number in range(600):
        scene = scenes[number % 150]
        told = conversations.about(scene, np.random.default_rng(number), 8)
        assert told == conversations.about(scene, np.random.default_rng(number), 8) and 1 <= len(told) <= 8
        endings[told[0][0].partition("?")[2]] += "?" in told[0][0]
        for place, (question, answer) in enumerate(told):
            answers[answer] += 1
            sorts[question.split()[0]] += 1
            assert not place or "?" not in question or question.endswith("?") or question.startswith("Context:")
            if answer in ("Yes", "No"):
                assert truth(scene, question.partition("?")[0]) == (answer == "Yes")
            if question.startswith(BOX):
                assert re.fullmatch(r"\[(?:[01]\.\d\d, ){3}[01]\.\d\d\]", answer)
    assert abs(answers["Yes"] - answers["No"]) < 4 * (answers["Yes"] + answers["No"]) ** 0.5 and answers["No"] > 200
    short = "\nAnswer the question using a single word or phrase."
    assert (
        min(endings[one] for one in (" Please answer yes or no.", f" Please answer yes or no.{short}", short, "")) > 15
    )
    assert min(sorts[word] for word in ("Context:", "Please", "Describe", "What", "Is")) > 60


def test_no_turn_of_a_conversation_tells_another_ones_answer(conversations, scenes):
    """A name that is spoken of again is likelier to be there: who had read only the words would be right more often than not."""
    names = [name for names in NAMES.values() for name in names]
    subjects = {form: name for name in (*names, *NAMES) for form in (name, plural(name))}
    named = re.compile(rf"\b({'|'.join(sorted(subjects, key=len, reverse=True))})\b")
    cell = re.compile(r"\b((?:top|center|bottom) (?:left|center|right)|(?<!top )(?<!bottom )center(?! left| right))\b")
    mix = {"yes_no": 0.7, "open": 0.2, "caption": 0.1}
    for number, scene in enumerate(scenes):
        told = conversations.about(scene, np.random.default_rng(number), 12, mix)
        spoken = Counter()
        for place, (question, answer) in enumerate(told):
            if question.startswith("Describe"):
                assert place == len(told) - 1
            else:
                words = f"{question} {answer}".lower()
                spoken.update({subjects[word] for word in named.findall(words)} | set(cell.findall(words)))
        assert not spoken or max(spoken.values()) == 1, (spoken, told)


def test_no_answer_of_a_conversation_follows_from_those_before(world, conversations):
    """As many Yes as No in each would tell the last answer, and mostly the second."""
    after = {"Yes": Counter(), "No": Counter()}
    for number in range(500):
        scene = world.scene(9, number, least=1, most=4)
        told = conversations.about(scene, np.random.default_rng(number), 12, {"yes_no": 0.8, "open": 0.2})
        answers = [answer for _, answer in told if answer in after]
        for before, answer in zip(answers, answers[1:]):
            after[before][answer] += 1
    for before, answers in after.items():
        assert answers.total() > 150
        assert abs(answers["Yes"] - answers["No"]) < 4 * answers.total() ** 0.5, (before, answers)


def test_single_questions_are_both_halves_of_a_pair_and_say_how_to_answer(conversations, scenes):
    sorts = Counter()
    for number, scene in enumerate(scenes):
        told = conversations.singly(scene, np.random.default_rng(number), 8)
        assert told == conversations.singly(scene, np.random.default_rng(number), 8) and told
        assert len({question for question, _ in told}) == len(told) and len(told) <= 16
        answers = Counter(answer for _, answer in told)
        assert answers["Yes"] == answers["No"]
        for question, answer in told:
            if answer in ("Yes", "No"):
                asked, _, form = question.partition("?")
                assert truth(scene, asked) == (answer == "Yes") and form
                sorts["yes/no"] += 1
            sorts[question.split()[0]] += 1
    assert min(sorts[word] for word in ("yes/no", "Context:", "Please", "Describe", "What")) > 20


@pytest.mark.parametrize("count", [1, 12])
def test_a_conversation_about_one_thing(count, world, questions, conversations):
    for number in range(20):
        scene = world.scene(8, number, least=1, most=1)
        assert conversations.about(scene, np.random.default_rng(number), count)
        assert conversations.about(scene, np.random.default_rng(number), count, {"yes_no": 1.0})
        asked = questions.open_questions(scene, np.random.default_rng(number))
        assert ("What is this?", scene.items[0].name) in [one[:2] for one in asked]


def test_names_that_may_be_said_of_one_another_do_not_meet(scenes):
    for scene in scenes:
        names = {item.name for item in scene.items}
        assert not any(alike(one, other) for one, other in combinations(names, 2))
    assert alike("sea lion", "lion") and alike("brown hen", "chicken") and not alike("crow", "owl")


def test_wrong_halves_are_as_frequent_as_right_ones():
    shares = {"a": 0.45, "b": 0.3, "c": 0.15, "d": 0.1}
    weights = counterweights(shares, lambda one, other: {one, other} == {"c", "d"})
    wrong = dict.fromkeys(shares, 0.0)
    for right, share in shares.items():
        others = [one for one in shares if one != right and {one, right} != {"c", "d"}]
        for other in others:
            wrong[other] += share * weights[other] / sum(weights[one] for one in others)
    assert wrong == pytest.approx(shares, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "several", "one"),
    [
        ("frog", "frogs", "a frog"),
        ("owl", "owls", "an owl"),
        ("european bear", "european bears", "a european bear"),
        ("woodlouse", "woodlice", "a woodlouse"),
        ("stripey fish", "stripey fish", "a stripey fish"),
        ("butterfly", "butterflies", "a butterfly"),
        ("donkey", "donkeys", "a donkey"),
        ("green bus", "green buses", "a green bus"),
        ("brown potato", "brown potatoes", "a brown potato"),
        ("adjustable wrench", "adjustable wrenches", "an adjustable wrench"),
        ("food", "foods", "food"),
    ],
)
def test_words_of_names(name, several, one):
    assert (plural(name), with_article(name)) == (several, one)


def test_what_cannot_be_asked(questions, scenes):
    with pytest.raises(ValueError, match="'colour' is no subtask.*existence, count, position, color, kind, naming"):
        questions.yes_no_pair("colour", scenes[0], np.random.default_rng(0))
    doubtful = Placed(Thing("train sign", "vehicle", scenes[0].items[0].thing.file), (10, 10, 60, 60), False, 0, 1)
    assert questions.yes_no_pair("kind", Scene((doubtful,), "painted", (1,)), np.random.default_rng(0)) is None


def test_grounds_of_leaves_are_not_said_to_show_no_plant(questions, scenes):
    wrong = Counter()
    for ground in ("painted", "Dune"):
        for number, scene in enumerate(scenes):
            pair = questions.yes_no_pair("kind", replace(scene, ground=ground), np.random.default_rng(number))
            wrong[ground, pair and pair[1]] += 1
    assert wrong["painted", "Is there a plant in this image?"] and not wrong["Dune", "Is there a plant in this image?"]
