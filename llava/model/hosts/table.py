"""Which sites and which evidence each host has, as a table."""

from __future__ import annotations

from collections.abc import Callable

from .families import HOSTS, Host
from .layout import anyres, frames, tiles

_LIES: dict[Callable, str] = {
    anyres: "the whole picture, then the rest cut to it",
    frames: "t x h x w of the picture",
    tiles: "tiles, a square each",
}
HEADER = (
    "host",
    "decoder, prompt",
    "projected",
    "features",
    "merging before the projector",
    "tower's attention",
    "grid",
)


def host_rows() -> list[tuple[str, ...]]:
    """A row for each host: what stages can do there, and what they can learn."""
    return [_row(host) for host in HOSTS.values()]


def _row(host: Host) -> tuple[str, ...]:
    pointwise = host.projector is not None
    return (
        f"`{host.name}`",
        "yes",
        "yes",
        "what goes into the projector" if pointwise else "the projected tokens",
        "yes" if pointwise else "no: a token is several features; write `@projected`",
        "of patches" if pointwise else "of patches, averaged over those of a token",
        _LIES.get(host.arrange, "a square"),
    )


def host_table() -> str:
    """The table in Markdown."""
    lines = [HEADER, tuple("---" for _ in HEADER), *host_rows()]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
