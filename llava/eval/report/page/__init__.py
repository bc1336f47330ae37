"""One self-contained HTML page of results: leaderboard, score against cost, subtasks, and samples with what was kept."""

from .document import write_page

__all__ = ["write_page"]
