"""Folders of trained modules; see ``learned.trained``."""

from .learned.trained import *  # noqa: F403
