"""What answers cost, in the columns that stand beside a harness's scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from llava.reduction import Cost
from llava.serve.openai.chat import Usage

Columns = dict[str, float]


def columns(usage: Usage, cost: Cost | None) -> Columns:
    """The cost of one answer.

    visual_tokens_per_layer: mean over the decoder's layers. visual_tokens_entering: in the first of them. gflops: of tower,
    projector, selection and prefill. kv_bytes: of the prompt's cache. The last two are missing where a host's are not counted.
    """
    visual = usage.visual_per_layer
    tokens = {"visual_tokens_per_layer": sum(visual) / len(visual), "visual_tokens_entering": float(visual[0])}
    return tokens if cost is None else tokens | {"gflops": cost.total_flops / 1e9, "kv_bytes": float(cost.kv_bytes)}


class CostTable:
    """Costs by task: their means, and with ``file`` a JSON line for every answer, added to what it holds.

    Raises OSError where the file cannot be written.
    """

    def __init__(self, file: str | Path | None = None):
        self.file = None if file is None else Path(file)
        self._costs: dict[str, list[Columns]] = {}
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.touch()

    def add(self, task: str, cost: Columns) -> None:
        """One more answer."""
        self._costs.setdefault(task, []).append(cost)
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"task": task, **cost}) + "\n")

    def means(self) -> Mapping[str, Columns]:
        """The mean of every column by task; a column that an answer lacks is left out."""
        return {task: _means(costs) for task, costs in self._costs.items()}

    def flat(self) -> Columns:
        """``means`` in one mapping, as ``mme_gflops``; for a single task without its name."""
        means = self.means()
        if len(means) == 1:
            return dict(*means.values())
        return {f"{task}_{name}": value for task, columns in means.items() for name, value in columns.items()}


def _means(costs: list[Columns]) -> Columns:
    shared = [name for name in costs[0] if all(name in cost for cost in costs)]
    return {name: sum(cost[name] for cost in costs) / len(costs) for name in shared}
