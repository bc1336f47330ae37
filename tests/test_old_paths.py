"""Import paths and commands that LLaVA's users and this package's documents know keep working wherever the code lies."""

from __future__ import annotations

import importlib

import pytest

from tests.entries import entry

# LLaVA's own modules, with what its users import from them
LLAVA = {
    "llava.eval.run_llava": ["eval_model"],
    "llava.eval.model_vqa": ["main"],
    "llava.eval.model_vqa_loader": ["main"],
    "llava.eval.model_vqa_science": ["main"],
    "llava.eval.model_vqa_mmbench": ["main"],
    "llava.eval.eval_pope": ["main"],
    "llava.eval.eval_science_qa": ["main"],
    "llava.eval.eval_textvqa": ["main"],
}
# commands of the documents: ``python -m NAME``
COMMANDS = [
    "llava.eval.run",
    "llava.eval.report",
    "llava.eval.bench",
    "llava.eval.visualize",
    "llava.eval.precision",
    "llava.eval.calculation",
    "llava.eval.convert_answer_to_mme",
    "llava.eval.eval_answers",
    *(name for name in LLAVA if name != "llava.eval.run_llava"),
]


@pytest.mark.parametrize(("module", "names"), LLAVA.items(), ids=list(LLAVA))
def test_known_import_works(module, names):
    imported = importlib.import_module(module)
    assert [name for name in names if not callable(getattr(imported, name, None))] == []


@pytest.mark.parametrize("module", COMMANDS)
def test_command_can_be_run_as_a_module(module, capsys):
    with pytest.raises(SystemExit) as end:
        entry(module).main(["--help"])
    assert end.value.code == 0 and "usage:" in capsys.readouterr().out
