"""A grid measured by the tiny model: resumed, refused plans noted, the page at the end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from llava.eval.leaderboard.cells import FILE, read_cells
from llava.eval.leaderboard.command import main, parser
from llava.eval.leaderboard.grid import read_grid
from llava.eval.leaderboard.measure import Measuring
from llava.eval.leaderboard.work import Selection, open_works
from llava.eval.results.folder import read_predictions
from llava.shapes.export import export
from tests.conftest import PARITY15


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return export("mme", tmp_path_factory.mktemp("data") / "MME", images=1)


@pytest.fixture
def file(data, tmp_path) -> Path:
    """A grid of two means; tome cannot be so few, trim has no text side to ask, and the model has no POPE."""
    content = {
        "results": str(tmp_path / "results"),
        "means": [288, 9],
        "samples": 1,
        "seeds": 1,
        "models": {
            "tiny": {
                "path": str(PARITY15 / "checkpoint"),
                "values": {"layer": 1},
                "tasks": {"mme": {"data": str(data)}, "pope": {"missing": "it was not asked"}},
            }
        },
        "methods": {"before": {"divprune": "divprune", "trim": "trim"}, "inside": {"fastv": "fastv@{layer}"}},
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return tmp_path / "grid.yaml"


def cells(file: Path, task: str = "mme") -> dict[tuple[str, int | None], tuple[str | None, str | None]]:
    _, found = read_cells(file.parent / "results/tiny" / task / FILE)
    return {(cell.name, cell.mean): (cell.plan, cell.reason) for cell in found}


def finished(file: Path) -> set[str]:
    return {metrics.parent.name for metrics in (file.parent / "results/tiny/mme").glob("*/metrics.json")}


def test_a_grid_is_measured_refusals_are_noted_and_the_page_is_built(file, caplog):
    caplog.set_level("INFO")
    assert main(["run", str(file), "--together", "3"]) == 0
    found = cells(file)
    assert finished(file) == {
        "full",
        "blind",
        "random-288",
        "random-9",
        "divprune-288",
        "divprune-9",
        found["fastv", 288][0],
    }
    plan, reason = found["trim", 9]
    assert plan and "text" in reason and not (file.parent / "results/tiny/mme" / plan).exists()
    assert found["fastv", 9][0] is None and "its nearest mean is" in found["fastv", 9][1]
    assert set(cells(file, "pope").values()) == {(None, "it was not asked")}
    content = json.loads((file.parent / "results/leaderboard.json").read_text())
    assert len(content["cells"]) == 2 * (2 + 2 * 4) and "cells are left, about" in caplog.text
    samples = json.loads((file.parent / "results/tiny/mme/divprune-9/samples.json").read_text())
    assert samples["samples"]


def test_what_is_finished_or_refused_is_not_asked_again(file, monkeypatch):
    assert main(["run", str(file), "--no-page", "--method", "trim", "--method", "blind", "--mean", "9"]) == 0
    works = open_works(read_grid(file), Selection(), make=False)
    assert "trim" not in {job.cell.name for job in works[0].left() if job.cell.mean == 9}
    assert "trim" in {job.cell.name for job in open_works(read_grid(file), Selection(), False, True)[0].left()}
    monkeypatch.setattr(Measuring, "_subject", lambda *_: pytest.fail("nothing is left, so nothing is loaded"))
    assert main(["run", str(file), "--no-page", "--method", "trim", "--method", "blind", "--mean", "9"]) == 0


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_runs_of_other_weights_under_the_same_name_are_not_taken_for_these(file, tmp_path, caplog, flags):
    """They stayed on the board beside the new ones, and nothing was left to measure."""
    checkpoint = Path(shutil.copytree(PARITY15 / "checkpoint", tmp_path / "checkpoint"))
    file.write_text(file.read_text().replace(str(PARITY15 / "checkpoint"), str(checkpoint)))
    words = ["run", str(file), "--no-page", "--method", "blind"]
    assert main(words) == 0
    weights = checkpoint / "config.json"
    weights.write_text(weights.read_text() + "\n")
    assert main([*words, *flags]) == 2
    assert "blind holds a run with another configuration: model.fingerprint is" in caplog.text


def test_a_stopped_run_is_resumed_at_the_question(file, monkeypatch):
    words = ["run", str(file), "--no-page", "--method", "full", "--method", "blind"]
    assert main(words) == 0
    run = file.parent / "results/tiny/mme/blind"
    lines = read_predictions(run / "predictions.jsonl")
    kept = "".join(json.dumps(line) + "\n" for line in lines[:5])
    (run / "predictions.jsonl").write_text(kept)
    (run / "metrics.json").unlink()
    (work, _) = open_works(read_grid(file), Selection(methods=("blind",)), make=False)
    (job,) = work.left()
    assert work.answered(job) == 5
    seconds = Measuring([work]).seconds(work)["blind"]
    (run / "predictions.jsonl").write_text("")
    assert 0 < seconds < Measuring([work]).seconds(work)["blind"]
    (run / "predictions.jsonl").write_text(kept)
    assert main(words) == 0
    again = read_predictions(run / "predictions.jsonl")
    assert again[:5] == lines[:5] and len(again) == 16 and finished(file) == {"full", "blind"}


def test_a_dry_run_lists_cells_and_writes_nothing(file, capsys):
    assert main(["run", str(file), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "divprune-288" in said and "cannot be: its nearest mean is" in said and "it was not asked" in said
    assert "tiny on mme: 0 cells are there, 9 are left, about" in said and "All in all 9 cells" in said
    assert not (file.parent / "results").exists()


def test_data_that_are_missing_are_made_or_a_reason(file):
    content = yaml.safe_load(file.read_text())
    made = file.parent / "made"
    tasks = content["models"]["tiny"]["tasks"]
    tasks["mme"] = {"data": str(made), "make": f"llava.shapes.export --format mme --images 1 --output {made}"}
    tasks["gqa"] = {"data": str(file.parent / "nowhere")}
    content["models"]["gone"] = {"path": str(file.parent / "gone"), "tasks": {"mme": {"data": str(made)}}}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    mme, _, gqa, gone = open_works(read_grid(file), Selection())
    assert made.is_dir() and len(mme.left()) == 9
    assert gqa.left() == gone.left() == []
    assert "nowhere" in gqa.jobs[0].cell.reason and "gone" in gone.jobs[0].cell.reason


def test_a_task_is_asked_at_its_own_means_alone(file):
    content = yaml.safe_load(file.read_text())
    content["models"]["tiny"]["tasks"]["mme"] |= {"means": [288], "elsewhere": "it says nothing at so few"}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    (mme, _) = open_works(read_grid(file), Selection())
    assert {job.cell.mean for job in mme.left()} == {None, 288}
    assert {reason for (_, mean), (_, reason) in cells(file).items() if mean == 9} == {"it says nothing at so few"}


def test_a_module_that_fails_is_named(file):
    content = yaml.safe_load(file.read_text())
    content["models"]["tiny"]["tasks"]["mme"] = {"data": "nowhere", "make": "llava.shapes.export --format none"}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ValueError, match="ended with status 2; nowhere is missing still"):
        open_works(read_grid(file), Selection())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "tinny"], "models: the grid has no tinny; did you mean 'tiny'"),
        (["--task", "mmme"], "tasks: the grid has no mmme; did you mean 'mme'"),
        (["--mean", "64"], "means: the grid has no 64; it has 288, 9"),
        (["--method", "divprun"], "methods: the grid has no divprun; did you mean 'divprune'"),
        (["--together", "0"], "--together 0 must be at least 1"),
    ],
)
def test_what_the_grid_has_not_is_named(file, flags, words, caplog):
    assert main(["run", str(file), *flags]) == 2
    assert words in caplog.text


def test_the_flags_of_both_halves():
    options = parser().parse_args(["build", "a", "b", "--output", "c"])
    assert options.folders == ["a", "b"] and options.output == Path("c")
    assert main(["build", "nowhere at all"]) == 2
