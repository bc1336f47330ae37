"""What surrounds the code is true of it: workflows and forms are well-formed and name what exists, and so do the pages."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

import llava
from llava.cli.main import llava as commands
from llava.shipped import EMBEDDED, FILES
from llava.versions import NEWEST, OLDEST
from tests.entries import entry

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted(file for file in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if file.stem != "config")
PAGES = [ROOT / name for name in ("AGENTS.md", "CHANGELOG.md", ".github/CONTRIBUTING.md")]
TOOLS = {"pip", "python", "ruff", "pyright", "mkdocs", "mkdir", "bash", "llava", '"$RUNNER_TEMP/clean/bin/pip"'}
KINDS = {"input", "textarea", "dropdown", "checkboxes", "markdown"}


def steps(file: Path) -> list[tuple[str, dict]]:
    """Job and step of everything that a workflow does."""
    return [(name, step) for name, job in read(file)["jobs"].items() for step in job["steps"]]


def read(file: Path) -> dict:
    # YAML 1.1 reads the key `on` as true; a loader of plain words does not
    return yaml.load(file.read_text(encoding="utf-8"), yaml.BaseLoader)


def lines(text: str) -> list[str]:
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def extras() -> set[str]:
    """The names in setup.py's extras_require."""
    block = (ROOT / "setup.py").read_text(encoding="utf-8").partition("extras_require={")[2]
    return set(re.findall(r'^        "(\w+)":', block, flags=re.M))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_jobs_are_whole(file):
    content = read(file)
    assert {"name", "on", "permissions", "jobs"} <= set(content)
    for name, job in content["jobs"].items():
        assert {"runs-on", "timeout-minutes", "steps"} <= set(job), name
        for step in job["steps"]:
            assert len({"uses", "run"} & set(step)) == 1, (name, step)
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/none@v1")), step


def test_commands_of_the_workflows_exist():
    seen = set()
    for file in WORKFLOWS:
        for job, step in steps(file):
            for line in lines(step.get("run", "")):
                if line.startswith("PATH="):
                    continue
                tool, *words = line.split()
                assert tool in TOOLS, (job, line)
                seen.add((job, tool))
                for extra in re.findall(r"\[(\w+)\]", line):
                    assert extra in extras(), line
                for word in words:
                    if re.fullmatch(r"[\w./-]+\.(sh|json|txt|py|yaml)", word):
                        assert (ROOT / word).is_file(), line
                if tool == "llava":
                    check_command(shlex.split(line)[1:])
    assert {("lint", "ruff"), ("types", "pyright"), ("tests", "python"), ("oldest", "bash")} <= seen
    assert {("docs", "mkdocs"), ("wheel", "llava")} <= seen


def check_command(words: list[str]) -> None:
    """A line of ``llava`` parses, and its paths that come with the package are in the wheel."""
    command = commands
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    module = entry(command.module)
    if words or hasattr(module, "parser"):
        module.parser().parse_args(words)
    for word in words:
        if word.startswith(("configs/", "playground/checkpoints")):
            assert word == EMBEDDED or any(Path(word).match(pattern) for pattern in FILES), word


def test_the_matrix_is_what_setup_declares():
    (matrix,) = [
        job["strategy"]["matrix"] for file in WORKFLOWS for job in read(file)["jobs"].values() if "strategy" in job
    ]
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert f'python_requires=">={matrix["python"][0]}"' in setup
    # the oldest transformers has a job of its own, the newest is what constraints.txt gives every other
    assert f"transformers=={'.'.join(map(str, NEWEST))}." in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "from llava.versions import OLDEST" in (ROOT / "scripts/test_oldest.sh").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", FORMS, ids=lambda file: file.stem)
def test_forms_are_as_github_reads_them(form):
    content = read(form)
    assert set(content) == {"name", "description", "labels", "body"}
    names = [field["id"] for field in content["body"] if field["type"] != "markdown"]
    assert len(set(names)) == len(names) >= 4 and {field["type"] for field in content["body"]} <= KINDS
    for field in content["body"]:
        assert "label" in field["attributes"]
        if field["type"] in ("dropdown", "checkboxes"):
            assert len(field["attributes"]["options"]) >= 2
    assert any(field.get("validations", {}).get("required") == "true" for field in content["body"])


def test_there_is_a_form_for_each_kind():
    assert {form.stem for form in FORMS} == {"new_host", "new_method", "wrong_number"} and len(WORKFLOWS) == 1
    for form in (*FORMS, ROOT / ".github/pull_request_template.md"):
        for page in re.findall(r"docs/\w+\.md", form.read_text(encoding="utf-8")):
            assert (ROOT / page).is_file(), page


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_name_what_exists(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links and [link for link in links if not (page.parent / link).exists()] == []
    named = re.findall(r"(?<![\w/.])(?:llava|tests|scripts|docs|playground)/[\w/.-]+", text)
    paths = [name.rstrip(".") for name in named]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    for tool, *_ in (line.split() for line in lines("\n".join(re.findall(r"```bash\n(.+?)```", text, flags=re.S)))):
        assert tool in TOOLS


def test_agents_are_told_briefly():
    text = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 300
    for check in ("ruff check .", "ruff format --check .", "pyright -p .pyright.json"):
        assert f"`{check}`" in text and check in (ROOT / "scripts/test.sh").read_text(encoding="utf-8")


def test_versions_agree():
    citation = read(ROOT / "CITATION.cff")
    assert citation["version"] == llava.__version__ and citation["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= set(citation) and citation["cff-version"] == "1.2.0"
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", changes, flags=re.M)
    assert headings[0] == "Unreleased" and (llava.__version__ in headings or f"will be {llava.__version__}" in changes)
    span = f"transformers {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
    assert span in changes
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Differences from LLaVA"}
    assert set(re.findall(r"^### (.+)$", changes, flags=re.M)) <= kinds


def test_the_changelog_counts_and_names_truly():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for name in re.findall(r"`llava ([\w-]+)`", changes):
        assert name in commands.commands, name
    methods = llava.list_methods()
    controls = methods.pop("controls")
    assert set(controls) <= set(re.findall(r"`(\w+)`", changes)), "a control is missing"
    assert "Forty, from the tower" not in changes or sum(map(len, methods.values())) == 40
