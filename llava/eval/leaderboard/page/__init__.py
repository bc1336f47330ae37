"""The page of a leaderboard: one self-contained file, filtered and sorted in the reader's browser."""

from .document import write_page

__all__ = ["write_page"]
