"""lmms-eval's model: the scores and costs of ``llava eval`` on the same data, in both interfaces, ours and stock."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import sys

import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'llava-condense[dev]'")

from llava.cli.settings import EvalSettings, ModelSpec, PlanSpec  # noqa: E402
from llava.eval.run import run  # noqa: E402
from tests.harness.conftest import HOME  # noqa: E402
from tests.harness.lmms_stand_in import Instance, Mme, ScienceQaImage  # noqa: E402
from tests.harness.parquet import write_mme, write_scienceqa  # noqa: E402

PLAN = "fastv@2:64"
TASKS = {"mme": (Mme, write_mme), "scienceqa": (ScienceQaImage, write_scienceqa)}


@pytest.fixture(scope="session")
def tasks(benchmarks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    return {name: kind(write(benchmarks / name, folder / name)) for name, (kind, write) in TASKS.items()}


@pytest.fixture(scope="session")
def evaluated(benchmarks, embedded, tmp_path_factory):
    """metrics.json and cost.json of ``llava eval`` by task."""
    found = {}
    for name in TASKS:
        results = tmp_path_factory.mktemp(name)
        settings = EvalSettings(
            ModelSpec(embedded, device="cpu"), task=name, data=benchmarks / name, results=results, batch_size=4
        )
        run(settings, PlanSpec((PLAN,), controls=False))
        (folder,) = (file.parent for file in results.glob("*/metrics.json"))
        found[name] = [json.loads((folder / f"{file}.json").read_text()) for file in ("metrics", "cost")]
    return found


def model(simple=True, **settings):
    """As lmms-eval makes it: a class by its name, model_args, and what it gives to every model."""
    module = importlib.import_module(HOME)
    kind = module.LlavaCondense if simple else module.LlavaCondenseChat
    given = {"batch_size": "4", "device": "cpu", "max_batch_size": None, **settings}
    return kind(**given)


def answers(lm, *tasks):
    lm.task_dict = {task.name: {"test": task.docs} for task in tasks}
    results = lm.generate_until([request for task in tasks for request in task.requests(lm.is_simple)])
    texts = [result.text for result in results]
    return [[texts.pop(0) for _ in task.docs] for task in tasks], results


@pytest.mark.parametrize("simple", [True, False], ids=["simple", "chat"])
def test_scores_and_costs_are_those_of_llava_eval(simple, logged, tasks, evaluated, embedded, tmp_path):
    lm = model(simple, pretrained=str(embedded), reduction=PLAN, costs=str(tmp_path / "costs.jsonl"))
    answered, results = answers(lm, *tasks.values())
    for (name, task), texts in zip(tasks.items(), answered):
        metrics, cost = evaluated[name]
        score = task.score(texts)
        assert score == {figure: pytest.approx(metrics[figure]) for figure in score}
        columns = {column: value for column, value in logged[0][3].items() if column.startswith(task.name)}
        assert columns == {
            f"{task.name}_visual_tokens_per_layer": pytest.approx(cost["visual_tokens"]),
            f"{task.name}_visual_tokens_entering": 576,
            f"{task.name}_gflops": pytest.approx(cost["total_flops"] / 1e9),
            f"{task.name}_kv_bytes": pytest.approx(cost["kv_bytes"]),
        }
    lines = [json.loads(line) for line in (tmp_path / "costs.jsonl").read_text().splitlines()]
    assert [line["task"] for line in lines] == ["mme"] * 16 + ["scienceqa_img"] * 4
    assert logged[0][1] == sum(result.token_counts.output_tokens for result in results)
    assert len(lm.cache_hook.seen) == 20


def test_a_stock_model_answers_as_ours(logged, tasks, embedded, stock_checkpoint):
    task = copy.copy(tasks["mme"])
    task.docs = task.docs[:4]
    own, _ = answers(model(pretrained=str(embedded), reduction="divprune:64"), task)
    stock, _ = answers(model(pretrained=str(stock_checkpoint), stock=True, reduction="divprune:64"), task)
    assert own == stock
    (ours, theirs) = (entry[3] for entry in logged)
    for name in ("visual_tokens_per_layer", "visual_tokens_entering"):
        assert ours[name] == theirs[name] == 64
    assert theirs["gflops"] > 0 and theirs["kv_bytes"] > 0
    plain, _ = answers(model(pretrained=str(stock_checkpoint), stock=True), task)
    assert logged[2][3]["visual_tokens_per_layer"] == 576 and len(plain[0]) == 4


def test_a_question_that_cannot_be_asked_fails_alone(logged, tasks, embedded, caplog):
    docs = tasks["mme"].docs[:2]
    lm = model(pretrained=str(embedded), reduction=PLAN)
    lm.task_dict = {"mme": {"test": docs}}
    requests = [
        Instance((text, {"max_new_tokens": 4}, lambda doc: [doc["image"]], number, "mme", "test"), {}) for number, text in
        enumerate(["word " * 5000, "Is there a heart?"])
    ]  # fmt: skip
    padding = Instance(requests[1].args, {"__padding_only__": True})
    first, second, third = lm.generate_until([*requests, padding])
    assert first.text == "" and second.text == third.text != "" and "exceed the model's" in caplog.text
    assert len(lm.costs.means()) == 1 and second.token_counts.input_tokens > 576
    lm.clean()
    with pytest.raises(ValueError, match="given back"):
        lm.generate_until(requests)


def test_the_manifest_names_both_classes(logged):
    from llava.harness.manifest import manifest
    from llava.harness.models import AVAILABLE_MODELS

    told = manifest()
    module = importlib.import_module(HOME)
    for path, simple in ((told.simple_class_path, True), (told.chat_class_path, False)):
        home, _, name = path.rpartition(".")
        assert home == HOME and getattr(module, name).is_simple is simple
    ((name, kind),) = AVAILABLE_MODELS.items()
    assert importlib.util.find_spec("llava.harness.tasks").submodule_search_locations, (
        "older releases look for tasks too"
    )
    assert name == told.model_id and f"llava.harness.models.{name}.{kind}" == told.simple_class_path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "lacks pretrained="),
        ({"pretrained": "x", "heads": "max_head"}, "'heads' is unknown.*in quotes"),
        ({"pretrained": "x", "reducton": PLAN}, "did you mean 'reduction'"),
        ({"pretrained": "x", "batch_size": "auto"}, "batch_size='auto'"),
        ({"pretrained": "x", "load_4bit": True, "load_8bit": True}, "both given"),
        ({"pretrained": "./nowhere"}, "'./nowhere' not found"),
    ],
)
def test_what_is_wrong_with_model_args_is_said(logged, settings, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        model(**settings)


def test_a_plan_with_options_stands_in_quotes(logged, embedded):
    lm = model(pretrained=str(embedded), reduction='"fastv@2:64,heads=max_head"')
    (stage,) = lm.respondent.chat.model.get_model().plan()
    assert str(stage) == "fastv@2:64,heads=max_head"
    with pytest.raises(NotImplementedError, match="generate_until"):
        lm.loglikelihood([])
    with pytest.raises(NotImplementedError, match="generate_until"):
        lm.generate_until_multi_round([])


def test_videos_are_refused(logged, embedded):
    for simple in (True, False):
        lm = model(simple, pretrained=str(embedded))
        lm.task_dict = {"clips": {"test": [{}]}}
        content = [{"type": "video", "url": "a.mp4"}, {"type": "text", "text": "What?"}]
        messages = [{"role": "user", "content": content}]
        asked = ("What?", {}, lambda _: ["a.mp4"]) if simple else ("What?", lambda _, told=messages: told, {})
        with pytest.raises(ValueError, match="'clips' asks about.*no videos"):
            lm.generate_until([Instance((*asked, 0, "clips", "test"))])


def test_without_lmms_eval_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    monkeypatch.delitem(sys.modules, HOME, raising=False)
    with pytest.raises(ImportError, match=r"llava-condense\[harness\]"):
        importlib.import_module(HOME)
