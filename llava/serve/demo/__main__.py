"""The command: ``llava demo``."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
from argparse import ArgumentParser, Namespace
from pathlib import Path

from llava.cli.console import launch
from llava.cli.flags import LoadPlugin, add_model_flags, model_spec, spellings
from llava.cli.settings import check_least
from llava.shipped import EMBEDDED
from llava.utils import installed

from ..openai.limits import Limits
from ..openai.opening import own_chat, stock_chat
from ..ports import free_port

logger = logging.getLogger(__name__)

STOPPED = "stopped; pictures that were uploaded are deleted"


def parser() -> ArgumentParser:
    """The model's flags, the address and the limits."""
    flags = ArgumentParser(prog="llava demo", description="A web page: a picture, a question, two plans side by side.")
    add_model_flags(flags, EMBEDDED)
    group = flags.add_argument_group("page")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (default: only this machine)")
    group.add_argument("--port", type=int, default=7860, help="0: a free one (default: 7860)")
    group.add_argument("--share", action="store_true", help="a public address through gradio's servers (default: no)")
    group.add_argument("--stock", action="store_true", help="transformers' own class and processor of the checkpoint")
    group.add_argument("--plugin", action=LoadPlugin, metavar="MODULE", help="a module or .py file with more methods")
    limits = Limits()
    for name, default, meaning in (
        ("max_image_bytes", limits.image_bytes, "of a picture's file"),
        ("max_image_pixels", limits.image_pixels, "of a decoded picture"),
        ("max_tokens", 256, "tokens of an answer"),
        ("max_seconds", 60, "seconds of a question under both plans, waiting included"),
    ):
        group.add_argument(*spellings(name), type=int, default=default, help=f"{meaning} (default: {default})")
    return flags


def run(options: Namespace) -> None:
    """Load the model and show the page until Ctrl-C. Raises ValueError for impossible settings, naming the flag."""
    if not installed("gradio"):
        raise ValueError("the demo needs gradio; pip install 'llava-condense[demo]'")
    check_least(1, max_seconds=options.max_seconds)
    limits = Limits(
        image_bytes=options.max_image_bytes, image_pixels=options.max_image_pixels, max_tokens=options.max_tokens
    )
    port = free_port(options.host, options.port)
    spec = model_spec(options)
    chat = stock_chat(spec) if options.stock else own_chat(spec)
    with tempfile.TemporaryDirectory(prefix="llava-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read when the page is built
        from .asking import Asker
        from .serving import served

        with (
            Asker(chat, limits, options.max_seconds) as asker,
            served(asker, options.host, port, Path(folder), options.share) as url,
        ):
            logger.info("%s at %s (Ctrl-C ends it)", chat.name, url)
            threading.Event().wait()


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 after Ctrl-C."""
    return launch(parser(), run, arguments, stopped=STOPPED)


if __name__ == "__main__":
    sys.exit(main())
