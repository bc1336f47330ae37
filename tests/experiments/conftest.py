"""The fixtures of the analyses serve the experiments too."""

from tests.analysis.conftest import analyse, questions, subject

__all__ = ["analyse", "questions", "subject"]
