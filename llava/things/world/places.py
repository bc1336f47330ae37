"""Where things are, in words: nine cells of the picture, its halves, and one thing beside another."""

from __future__ import annotations

from .scene import SIZE, Placed, Scene

CELLS = (
    *("top left", "top center", "top right"),
    *("center left", "center", "center right"),
    *("bottom left", "bottom center", "bottom right"),
)
SIDES = ("left", "right", "top", "bottom")
RELATIONS = ("to the left of", "to the right of", "above", "below")
CLEAR = 12  # pixels between the middle of a thing and the border of a cell, so that its cell is certain
HALF_CLEAR = 20  # likewise of a half of the picture
APART = 50  # pixels that one middle is beside another
SHARED = 0.2  # share of a cell that other things may cover where it names a thing


def cell_of(item: Placed) -> str | None:
    """The cell of a grid of 3 x 3 that the middle of a thing lies in; None when it is too near a border to say."""
    places = []
    for value in item.middle:
        if min(abs(value - SIZE / 3), abs(value - 2 * SIZE / 3)) < CLEAR:
            return None
        places.append(int(3 * value / SIZE))
    return CELLS[3 * places[1] + places[0]]


def at(cell: str) -> str:
    """The cell as it stands in a sentence."""
    return f"in the {cell}" if cell == "center" else f"at the {cell}"


def by_place(scene: Scene) -> list[tuple[Placed, str]]:
    """The things that their cell alone names, each with its cell: no other thing is in it or covers much of it."""
    return [
        (item, cell)
        for item in scene.items
        if (cell := cell_of(item)) and not any(_reaches(other, cell) for other in scene.items if other is not item)
    ]


def on_side(item: Placed, side: str) -> bool | None:
    """Whether a thing lies on that side of the picture; None when it is too near the middle to say."""
    value = item.middle[0 if side in ("left", "right") else 1]
    if abs(value - SIZE / 2) < HALF_CLEAR:
        return None
    return (value < SIZE / 2) == (side in ("left", "top"))


def relations(one: Placed, other: Placed) -> list[str]:
    """Which of ``RELATIONS`` certainly hold of one thing to another: its middle is far beyond the other's."""
    found = []
    for axis, (before, behind) in enumerate((RELATIONS[:2], RELATIONS[2:])):
        way = other.middle[axis] - one.middle[axis]
        if abs(way) >= APART:
            found.append(before if way > 0 else behind)
    return found


def opposite(word: str) -> str:
    """The other side, or the other way round."""
    words = SIDES if word in SIDES else RELATIONS
    return words[words.index(word) ^ 1]


def _reaches(item: Placed, cell: str) -> bool:
    row, column = divmod(CELLS.index(cell), 3)
    side = SIZE / 3
    corner = (column * side, row * side)
    if all(start - CLEAR <= value <= start + side + CLEAR for start, value in zip(corner, item.middle)):
        return True
    wide, high = (
        max(0.0, min(item.box[axis + 2], start + side) - max(item.box[axis], start))
        for axis, start in enumerate(corner)
    )
    return wide * high > SHARED * side**2
