"""The conventions of this code base, each one executable."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from llava.reduction import get_method, method_names

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "llava").rglob("*.py"))
METHOD_FILES = sorted(path for path in (ROOT / "llava/reduction/methods").rglob("*.py") if path.name != "__init__.py")
# who may import whom: a layer knows those before it
LAYERS = [
    "reduction",
    "model",
    "cli",
    "eval",
    "analysis",
    "train",
    "experiments",
    "serve",
    "harness",
    "worlds",
    "things",
]
DOORS = {"llava/eval/precision.py"}  # a known command whose code lies in a higher layer


def imports(path: Path) -> set[str]:
    """Absolute names of all modules a file imports, relative imports resolved."""
    found = set()
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            found.add(".".join([*base, *([node.module] if node.module else [])]))
    return found


def code_lines(path: Path) -> int:
    """Lines that hold code: no blanks, no comments, no docstrings."""
    tree = ast.parse(path.read_text())
    documents = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            documents |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(path.read_text().splitlines(), start=1)
    return sum(1 for number, line in lines if line.strip() and line.strip()[0] != "#" and number not in documents)


def test_there_is_something_to_check():
    assert len(SOURCES) > 30 and len(METHOD_FILES) >= 2 and len(method_names()) >= 7


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_layers_import_downwards_only(path):
    parts = path.relative_to(ROOT).parts
    if parts[1] not in LAYERS or str(path.relative_to(ROOT)) in DOORS:
        return
    above = LAYERS[LAYERS.index(parts[1]) + 1 :]
    for name in imports(path):
        assert name.split(".")[1:2] not in [[layer] for layer in above] or not name.startswith("llava."), name


@pytest.mark.parametrize("path", METHOD_FILES, ids=lambda path: path.name)
def test_a_method_file_is_short_and_knows_only_torch_and_the_engine(path):
    methods = sum(isinstance(node, ast.ClassDef) for node in ast.parse(path.read_text()).body)
    assert code_lines(path) <= 75 * methods
    assert {name.split(".")[0] for name in imports(path)} <= {"__future__", "typing", "torch", "math", "llava"}
    assert all(name.startswith("llava.reduction") for name in imports(path) if name.startswith("llava"))


@pytest.mark.parametrize("name", method_names())
def test_a_method_says_where_it_comes_from(name):
    document = inspect.getdoc(get_method(name))
    first = document.splitlines()[0]
    assert first.endswith((".", ":")) and len(first) <= 120
    fields = re.search(r"Paper: (.+?)\s{2,}Site: (.+?)\s{2,}Needs: (.+?)\s{2,}Training: (.+)", document)
    assert fields, "Paper, Site, Needs and Training stand on one line, parted by blanks"
    assert re.search(r"Accounting: .+?\.(\s|$)", document, re.DOTALL), "Accounting says what the budget counts"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_print_no_blanket_except_no_bare_literals(path):
    tree = ast.parse(path.read_text())
    engine = path.relative_to(ROOT).parts[1] in ("reduction", "model")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"line {node.lineno}: log instead"
        if isinstance(node, ast.ExceptHandler):
            caught = getattr(node.type, "id", None)
            assert node.type is not None and caught not in ("Exception", "BaseException"), f"line {node.lineno}"
        if engine and isinstance(node, ast.Constant) and type(node.value) is int:
            assert node.value not in (35, 575, 576, 611), (
                f"line {node.lineno}: {node.value} belongs to a ledger or config"
            )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_things_are_documented(path):
    tree = ast.parse(path.read_text())
    if path.name != "__init__.py":
        public = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and not n.name.startswith("_")]
        for node in public:
            overload = any(getattr(decorator, "id", None) == "overload" for decorator in node.decorator_list)
            documented = ast.get_docstring(node) or node.name == "main" or overload
            assert documented, f"{node.name} has no docstring"


def test_the_whole_tree_is_of_a_few_known_things():
    allowed = {"llava", "scripts", "playground", "configs", "docs", "tests", "README.md", "README_zh.md", "setup.py"}
    allowed |= {"mkdocs.yml", "site", "CHANGELOG.md", "CITATION.cff", "AGENTS.md"}
    visible = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert visible - allowed - {"LICENSE", "constraints.txt", "llava_condense.egg-info", "build", "dist"} == set()
