"""The command ``llava``: each sub-command is a module that ``python -m`` runs as well.

A sub-command reads its own flags, with argparse, as LLaVA's scripts do. This module finds it, and completes its name
and its flags in the shell: ``eval "$(_LLAVA_COMPLETE=bash_source llava)"`` (or zsh_source, fish_source).
"""

from __future__ import annotations

import importlib
import importlib.util
import runpy
import sys

import click
from click.shell_completion import CompletionItem

COMMANDS = {
    "ask": ("llava.eval.ask", "one question about one picture"),
    "bench": ("llava.eval.bench", "time plans on this machine"),
    "chat": ("llava.serve.cli", "talk about a picture in the terminal"),
    "convert": ("llava.model.convert", "write a checkpoint in transformers' layout"),
    "cost": ("llava.cost", "what a plan costs any model, before it runs"),
    "demo": ("llava.serve.demo", "a web page with two plans side by side"),
    "eval": ("llava.eval.run", "questions of a benchmark under plans"),
    "hosts": ("llava.model.hosts", "which models of transformers plans run on"),
    "leaderboard": ("llava.eval.leaderboard", "a grid of models, tasks, methods and costs, and its page"),
    "methods": ("llava.cli.methods", "which methods there are, and what one does"),
    "plan": ("llava.harness.plan", "a checkpoint that runs under a plan, for programs that pass none on"),
    "report": ("llava.eval.report", "tables and pages of runs"),
    "reproduce": ("llava.eval.reproduce", "a published row, measured here"),
    "serve": ("llava.serve.openai", "an OpenAI-compatible server"),
    "train": ("llava.train.train", "train a model, with tokens reduced or not"),
    "train-merger": ("llava.train.train_merger", "train a merger of visual tokens"),
}
SHAPES = {
    "export": ("llava.shapes.export", "the drawn world in a benchmark's layout"),
    "train": ("llava.shapes.train", "train the embedded model, or refine it"),
}
THINGS = {
    "build": ("llava.things.build", "fetch two pretrained parts and put them together"),
    "export": ("llava.things.export", "the world of things in a benchmark's layout"),
    "measure": ("llava.things.measure", "what a trained model tells about new pictures"),
    "train": ("llava.things.train", "teach them to see together, or go on with it"),
}


class Module(click.Command):
    """A sub-command whose flags its module reads; it ends the process as it does under ``python -m``."""

    def __init__(self, name: str, module: str, text: str):
        super().__init__(
            name,
            params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
            help=text,
            add_help_option=False,
            context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
        )
        self.module = module

    def invoke(self, ctx: click.Context) -> None:
        sys.argv = [ctx.command_path, *ctx.params["arguments"]]
        runpy.run_module(self.module, run_name="__main__")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The flags of the module's parser; it is imported for that, which may take seconds."""
        spec = importlib.util.find_spec(self.module)
        is_package = spec is not None and spec.submodule_search_locations is not None
        command = importlib.import_module(f"{self.module}.__main__" if is_package else self.module)
        return [
            CompletionItem(option, help=action.help)
            for action in command.parser()._actions
            for option in action.option_strings
            if option.startswith(incomplete) and "_" not in option
        ]


def group(name: str, text: str, commands: dict[str, tuple[str, str]]) -> click.Group:
    """Sub-commands under a name, from ``{name: (module, what it does)}``."""
    return click.Group(name, help=text, commands=[Module(one, *about) for one, about in commands.items()])


llava = group("llava", "LLaVA with fewer visual tokens.", COMMANDS)
llava.add_command(group("shapes", "The drawn world, and the embedded model that sees it.", SHAPES))
llava.add_command(group("things", "A LLaVA of real parts, and its world of things.", THINGS))


def main() -> None:
    """Run the command line; an unknown sub-command ends it with status 2 and names the nearest ones."""
    llava(prog_name="llava")


if __name__ == "__main__":
    main()
