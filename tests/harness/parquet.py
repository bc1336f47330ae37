"""The drawn world as the parquet files that lmms-eval's tasks read: the columns of MME and of ScienceQA on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

SHARD = "test-00000-of-00001.parquet"


def write_mme(benchmark: Path, folder: Path) -> Path:
    """An exported MME as ``folder/data/test-*.parquet``: question_id, image, question, answer, category."""
    asked = json.loads((benchmark / "MME_test.json").read_text())
    pictures = benchmark / "MME_Benchmark_release_version"
    rows = [
        {
            "question_id": line["question_id"],
            "image": _picture(pictures / line["image_file"]),
            "question": line["question"],
            "answer": line["answer"],
            "category": line["category"],
        }
        for line in asked
    ]
    return _write(rows, folder / "data" / SHARD)


def write_scienceqa(benchmark: Path, folder: Path) -> Path:
    """An exported ScienceQA as ``folder/ScienceQA-IMG/test-*.parquet``, and the card that names this configuration.

    The hint is "N/A", which LLaVA's question file says where there is none, so that both ask the same.
    """
    problems = json.loads((benchmark / "problems.json").read_text())
    rows = [
        {
            "image": _picture(benchmark / "images" / "test" / key / problem["image"]),
            **{name: problem[name] for name in ("question", "choices", "answer")},
            "hint": problem["hint"] or "N/A",
            **{name: problem[name] for name in ("task", "grade", "subject", "topic", "category", "skill")},
        }
        for key, problem in problems.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    card = "---\nconfigs:\n- config_name: ScienceQA-IMG\n  data_files:\n  - split: test\n    path: ScienceQA-IMG/test-*\n---\n"
    (folder / "README.md").write_text(card)
    return _write(rows, folder / "ScienceQA-IMG" / SHARD)


def _picture(file: Path) -> dict[str, Any]:
    return {"bytes": file.read_bytes(), "path": file.name}


def _write(rows: list[dict[str, Any]], file: Path) -> Path:
    """With the note by which ``datasets`` knows a picture from a record."""
    kinds = {
        "image": {"_type": "Image"},
        "choices": {"feature": _value("string"), "_type": "List"},
        "answer": _value("int64"),
    }
    features = {name: kinds.get(name, _value("string")) for name in rows[0]}
    if isinstance(rows[0]["answer"], str):
        features["answer"] = _value("string")
    table = pyarrow.Table.from_pylist(rows)
    note = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table.replace_schema_metadata(note), file)
    return file


def _value(kind: str) -> dict[str, str]:
    return {"dtype": kind, "_type": "Value"}
