"""The world of things as the layouts of benchmarks ask for it, and the 200 pictures of it that come with the repository.

    python -m llava.things.world.benchmark --output FOLDER          # draws those pictures

All tasks ask about the same pictures. Conversations for training are of other pictures, whichever the seed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from pathlib import Path

import numpy as np

from llava.cli.console import launch
from llava.files import numbered_records, read_json, write_json
from llava.shipped import THINGS, shipped
from llava.worlds import Drawn
from llava.worlds.protocol import STREAM, Open, Turn

from ..parts import CACHE, DEBIAN
from ..pictures import Thing
from .conversations import Conversations
from .names import alike, with_article
from .questions import Questions
from .scene import SIZE, Placed, Scene, World, load_world

SHIPPED = Path(THINGS)
SCENES = "scenes.json"  # what every picture shows
PICTURES = 200
QUALITY = 88  # of the JPEGs
TRAINING = 3  # the layout whose pictures no benchmark has
TURNS = 6  # of a conversation


class Things:
    """Pictures of things; those numbered up to ``len(shipped)`` are not drawn but taken from the repository.

    world: the things, and the grounds where pictures are drawn. shipped: scenes by number, and the folder of their pictures.
    """

    name: str = "things"
    about: tuple[str, str] = ("things", "world of things")
    size: int = SIZE
    suffix: str = ".jpg"
    shared: bool = True
    images: Mapping[str, int] = {
        "mme": PICTURES,
        "scienceqa": PICTURES,
        "llava": 1000,
        "pope": PICTURES,
        "boxes": PICTURES,
        "coco_caption": PICTURES,
        "gqa": PICTURES,
        "vqav2": PICTURES,
    }

    def __init__(self, world: World, shipped: Sequence[Scene] = (), folder: Path = SHIPPED):
        self.world, self.folder = world, folder
        self.shipped = {scene.seed: scene for scene in shipped}
        self.questions = Questions(world)
        self.conversations = Conversations(self.questions)
        self.subtasks: tuple[str, ...] = self.questions.subtasks
        self._drawn = lru_cache(maxsize=2 * PICTURES)(world.scene)

    def pictures(self, layout: int, seed: int, *further: int) -> Iterator[Drawn]:
        stream = (STREAM, layout, seed) if layout == TRAINING else (STREAM, seed)
        for number in count(1):
            scene = self.shipped.get((*stream, number)) or self._drawn(*stream, number)
            yield Drawn(number, scene, np.random.default_rng((STREAM, layout, seed, *further, number, 2)))

    def save(self, scene: Scene, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if scene.seed in self.shipped:
            shutil.copyfile(picture_of(self.folder, scene), file)
        else:
            self.world.render(scene).save(file, quality=QUALITY)

    def sources(self) -> list[Path]:
        return sorted(Path(__file__).parent.glob("*.py"))

    def yes_no_pair(self, subtask: str, scene: Scene, rng: np.random.Generator) -> Turn | None:
        return self.questions.yes_no_pair(subtask, scene, rng)

    def open_questions(self, scene: Scene, rng: np.random.Generator) -> list[Open]:
        return self.questions.open_questions(scene, rng)

    def multiple_choice(self, scene: Scene, rng: np.random.Generator) -> dict:
        return self.questions.multiple_choice(scene, rng)

    def caption(self, scene: Scene, rng: np.random.Generator) -> Turn:
        return self.questions.caption(scene, rng)

    def told(self, scene: Scene, rng: np.random.Generator) -> list[Turn]:
        return self.conversations.about(scene, rng, TURNS)

    def present(self, scene: Scene) -> list[str]:
        return sorted({item.name for item in scene.items})

    def absent(self, scene: Scene) -> list[str]:
        there = self.present(scene)
        return [thing.name for thing in self.world.things if not any(alike(thing.name, name) for name in there)]

    def is_there(self, name: str) -> str:
        return f"Is there {with_article(name)} in the image?"

    def boxes(self, scene: Scene) -> list[tuple[str, str, tuple[float, float, float, float]]]:
        kinds = {item.name: item.kind for item in scene.items}
        return [(name, kinds[name], box) for name, box in self.questions.boxes(scene)]

    def written(self, scene: Scene) -> None:
        return None


def open_things(
    layout: str, images: int, seed: int, cache: Path = CACHE, mirror: str = DEBIAN, folder: Path = SHIPPED
) -> Things:
    """The world for a layout: of the pictures in ``folder`` where these are enough, else drawn.

    Raises as ``load_world`` does where pictures have to be drawn, and ValueError for a folder that is not what it should be.
    """
    found: tuple[World, list[Scene]] | None = None
    folder = shipped(folder)
    if layout != "llava" and seed == 0 and (folder / SCENES).is_file():
        found = read_shipped(folder)
        if images <= len(found[1]):
            return Things(*found, folder)
    return Things(load_world(cache, mirror), found[1] if found else (), folder)


def write_shipped(world: World, folder: Path, pictures: int = PICTURES) -> Path:
    """Draw the first pictures of the benchmarks' stream into ``folder``, with ``scenes.json`` that says what they show."""
    listed = []
    things = Things(world, folder=folder)
    for number in range(1, pictures + 1):
        scene = world.scene(STREAM, 0, number)
        things.save(scene, picture_of(folder, scene))
        items = [{"name": item.name, "box": list(item.box)} for item in scene.items]
        listed.append({"picture": number, "ground": scene.ground, "things": items})
    names = [{"name": thing.name, "kind": thing.kind} for thing in world.things]
    write_json(folder / SCENES, {"names": names, "scenes": listed})
    return folder


def read_shipped(folder: Path) -> tuple[World, list[Scene]]:
    """The names and scenes of a folder that ``write_shipped`` made. Raises ValueError naming what is wrong in it."""
    file = folder / SCENES
    read_json(file)
    known = {
        entry["name"]: Thing(entry["name"], entry["kind"], Path())
        for _, entry in numbered_records(file, {"name": str, "kind": str}, inside="names")
    }
    scenes = []
    for where, entry in numbered_records(file, {"picture": int, "ground": str, "things": list}, inside="scenes"):
        items = []
        for thing in entry["things"]:
            if thing.get("name") not in known or len(thing.get("box", ())) != 4:
                raise ValueError(
                    f"{where}: {thing} is no thing of the world with a box; take the file of the repository"
                )
            items.append(Placed(known[thing["name"]], tuple(thing["box"]), False, 0.0, 1.0))
        scenes.append(Scene(tuple(items), entry["ground"], (STREAM, 0, entry["picture"])))
        if not (picture := picture_of(folder, scenes[-1])).is_file():
            raise ValueError(f"{where}: {picture} is not there; take the folder of the repository as it is")
    return World(tuple(known.values()), {}), scenes


def picture_of(folder: Path, scene: Scene) -> Path:
    """Where the picture of a shipped scene lies."""
    return folder / "images" / f"{scene.seed[-1]:04d}.jpg"


def parser() -> argparse.ArgumentParser:
    """Folder, and where packages come from."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.things.world.benchmark", description="Draw the pictures that come with the repository."
    )
    flags.add_argument("--output", type=Path, default=SHIPPED, help=f"default {SHIPPED}")
    flags.add_argument("--cache", type=Path, default=CACHE, help=f"where packages are kept (default {CACHE})")
    flags.add_argument("--mirror", default=DEBIAN, help=f"Debian mirror (default {DEBIAN})")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""

    def work(options: argparse.Namespace) -> None:
        write_shipped(load_world(options.cache, options.mirror), options.output)

    return launch(parser(), work, arguments, stopped=None)


if __name__ == "__main__":
    sys.exit(main())
