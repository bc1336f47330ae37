"""Which methods there are, and what each of them does.

llava methods                # all, by where they choose
llava methods fastv          # what fastv keeps, its options, what its budget counts, its source
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence

from rich.table import Table

from llava.reduction import list_methods
from llava.reduction.checks import shown
from llava.reduction.registry import get_method, load_plugin, options_of, summary_of

from .console import launch, terminal


def parser() -> argparse.ArgumentParser:
    """A method's name or none, and modules with further methods."""
    flags = argparse.ArgumentParser(
        prog="llava methods", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("method", nargs="?", help="describe this one (default: list all)")
    flags.add_argument(
        "--plugin", action="append", default=[], metavar="MODULE", help="a module or a .py file with further methods"
    )
    return flags


def methods_table() -> Table:
    """All methods by group, each with the first sentence about it."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for group, names in list_methods().items():
        table.add_section()
        table.add_row(f"[bold]{group}[/]")
        for name in names:
            table.add_row(f"  {name}", summary_of(get_method(name)))
    return table


def description(name: str) -> str:
    """A method's documentation and its options with their defaults. Raises ValueError where there is no such method."""
    method = get_method(name)
    options = options_of(method)
    listed = [
        f"  {option.name}" + ("" if option.default is option.empty else f"={shown(option.default)}")
        for option in options
    ]
    heading = "Options, written name=value after the budget:" if listed else "It has no options."
    return "\n".join([name, "", inspect.getdoc(method) or "", "", heading, *listed])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for a method or a plug-in that is not there."""

    def work(options: argparse.Namespace) -> None:
        for plugin in options.plugin:
            load_plugin(plugin)
        if options.method is None:
            terminal().print(methods_table())
        else:
            terminal().print(description(options.method), markup=False, highlight=False, soft_wrap=True)

    return launch(parser(), work, arguments)


if __name__ == "__main__":
    sys.exit(main())
