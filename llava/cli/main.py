"""The command ``llava``: each sub-command is a module that ``python -m`` runs as well."""

from __future__ import annotations

import argparse
import runpy
import sys

COMMANDS = {
    "bench": ("llava.eval.bench", "time plans on this machine"),
    "chat": ("llava.serve.cli", "talk about a picture in the terminal"),
    "convert": ("llava.model.convert", "write a checkpoint in transformers' layout"),
    "cost": ("llava.cost", "what a plan costs any model, before it runs"),
    "eval": ("llava.eval.run", "questions of a benchmark under plans"),
    "hosts": ("llava.model.hosts", "which models of transformers plans run on"),
    "leaderboard": ("llava.eval.leaderboard", "a grid of models, tasks, methods and costs, and its page"),
    "report": ("llava.eval.report", "tables and pages of runs"),
    "reproduce": ("llava.eval.reproduce", "a published row, measured here"),
    "serve": ("llava.serve.openai", "an OpenAI-compatible server"),
    "things": ("llava.things", "a LLaVA of real parts, and its world"),
}


def parser() -> argparse.ArgumentParser:
    """The command's flags: a sub-command, and what it is given."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items())
    flags = argparse.ArgumentParser(
        prog="llava",
        description="LLaVA with fewer visual tokens.",
        epilog=f"commands:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    flags.add_argument("arguments", nargs=argparse.REMAINDER, help="see llava COMMAND --help")
    return flags


def main() -> None:
    """Run a sub-command with the arguments behind its name; it ends the process as it does under ``python -m``."""
    options = parser().parse_args()
    sys.argv = [f"llava {options.command}", *options.arguments]
    runpy.run_module(COMMANDS[options.command][0], run_name="__main__")


if __name__ == "__main__":
    main()
