"""The commands of the model of real parts: ``llava things COMMAND``, or ``python -m llava.things COMMAND``."""

from __future__ import annotations

import argparse
import runpy
import sys

COMMANDS = {
    "build": ("llava.things.build", "fetch two pretrained parts and put them together"),
    "train": ("llava.things.train", "teach them to see together, or go on with it"),
    "export": ("llava.things.export", "the world of things in a benchmark's layout"),
}


def parser() -> argparse.ArgumentParser:
    """A command, and what it is given."""
    listed = "\n".join(f"  {name:8}{text}" for name, (_, text) in COMMANDS.items())
    flags = argparse.ArgumentParser(
        prog="llava things",
        description="A LLaVA of real parts, and its world of things.",
        epilog=f"commands:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    flags.add_argument("arguments", nargs=argparse.REMAINDER, help="see llava things COMMAND --help")
    return flags


def main() -> None:
    """Run a command with the arguments behind its name; it ends the process as it does under ``python -m``."""
    options = parser().parse_args()
    sys.argv = [f"llava things {options.command}", *options.arguments]
    runpy.run_module(COMMANDS[options.command][0], run_name="__main__")


if __name__ == "__main__":
    main()
