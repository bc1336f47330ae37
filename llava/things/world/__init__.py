"""The world of things: pictures composed of photographs of named things, and questions about them whose answers are certain."""

from .conversations import Conversations
from .questions import Questions
from .scene import GRID, PATCH, SIZE, Placed, Scene, World, load_world, patch_owner

__all__ = [
    "GRID",
    "PATCH",
    "SIZE",
    "Conversations",
    "Placed",
    "Questions",
    "Scene",
    "World",
    "load_world",
    "patch_owner",
]
