"""Attributes of single modules that are ours for a while: no class is changed, and everything is put back."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Replaced:
    """What stood where we put something."""

    def __init__(self) -> None:
        self._entries: list[tuple[nn.Module, str, Any, Any]] = []

    def undo(self) -> None:
        """Take away what is still ours, whatever was put over it since."""
        for module, name, before, ours in reversed(self._entries):
            if module.__dict__.get(name) is ours:
                if before is None:
                    del module.__dict__[name]
                else:
                    module.__dict__[name] = before
            elif module.__dict__.get("_old_forward") is ours:  # a hook of accelerate's was put over it
                module.__dict__["_old_forward"] = before or functools.partial(getattr(type(module), name), module)
        self._entries.clear()

    def put(self, module: nn.Module, name: str, wrapper: Callable, takes_visual: bool = False) -> None:
        """Let ``wrapper``, which is given what stood there and then the arguments, stand for a module's attribute.

        takes_visual: its signature has a keyword ``visual`` more, which generate then lets through.
        """
        stock, before = getattr(module, name), module.__dict__.get(name)

        @functools.wraps(stock)
        def ours(*args: Any, **kwargs: Any) -> Any:
            return wrapper(stock, *args, **kwargs)

        if takes_visual:
            signature = inspect.signature(stock)
            named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
            rest = [p for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
            extra = inspect.Parameter("visual", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Tensor)
            ours.__signature__ = signature.replace(parameters=[*named, extra, *rest])  # pyright: ignore
        module.__dict__[name] = ours
        self._entries.append((module, name, before, ours))
