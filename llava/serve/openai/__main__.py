"""The command: ``python -m llava.serve.openai --model-path ... --port 8000``."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from dataclasses import fields

from llava.cli.flags import add_model_flags, add_reduction_flags, model_spec, reduction_kwargs, spellings
from llava.cli.settings import check_least
from llava.utils import exit_code, installed

from ..ports import free_port
from .chat import Chat
from .limits import MEGABYTE, Limits

NEEDED = ("fastapi", "uvicorn", "pydantic")
PICTURE_CACHE = 256  # MiB
_FLAGS = {
    "image_bytes": ("max_image_bytes", "of a picture's file"),
    "image_pixels": ("max_image_pixels", "of a decoded picture"),
    "images": ("max_images", "pictures of a request"),
    "max_tokens": ("max_tokens", "tokens of an answer"),
    "text_bytes": ("max_text_bytes", "of everything in a request that is no picture"),
    "batch": ("max_batch", "prompts in one batch"),
    "open_requests": ("max_requests", "requests at once, waiting or being answered; more get status 429"),
    "upload_seconds": ("max_upload_seconds", "in which a request has to arrive"),
}


def parser() -> ArgumentParser:
    """The model's flags, the address, the limits and every reduction flag."""
    flags = ArgumentParser(prog="llava serve", description="Serve a model over the OpenAI API.")
    add_model_flags(flags)
    group = flags.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (default: only this machine)")
    group.add_argument("--port", type=int, default=8000, help="0: a free one (default: 8000)")
    group.add_argument(
        "--stock",
        action="store_true",
        help="transformers' own class and processor of the checkpoint, not this package's LLaVA",
    )
    group.add_argument(*spellings("served_name"), help="the model's name for clients (default: its folder's)")
    group.add_argument(
        "--temperature", type=float, default=0.0, help="temperature of requests that name none (default: 0, greedy)"
    )
    group.add_argument(
        *spellings("allow_image_urls"),
        action=BooleanOptionalAction,
        default=False,
        help="fetch http(s) pictures, from this machine's network (default: no)",
    )
    group.add_argument(
        *spellings("picture_cache"),
        type=int,
        help="MiB for what the tower saw of the last pictures, so that one sent again does not pass it again (default: "
        f"{PICTURE_CACHE}; 0: none)",
    )
    defaults = {field.name: field.default for field in fields(Limits)}
    for name, (flag, meaning) in _FLAGS.items():
        group.add_argument(
            *spellings(flag), type=int, default=defaults[name], help=f"{meaning} (default: {defaults[name]})"
        )
    add_reduction_flags(flags)
    return flags


def limits_from(options: Namespace) -> Limits:
    """The limits of a command line. Raises ValueError for one below 1."""
    given = {name: getattr(options, flag) for name, (flag, _) in _FLAGS.items()}
    return Limits(**given, image_urls=options.allow_image_urls)


def main(options: Namespace) -> None:
    """Load the model and serve it until Ctrl-C."""
    if missing := [package for package in NEEDED if not installed(package)]:
        raise ValueError(f"the server needs {', '.join(missing)}; pip install 'llava-condense[serve]'")
    import uvicorn

    from .app import create_app

    port = free_port(options.host, options.port)  # before a model is loaded
    app = create_app(open_chat(options), limits_from(options), options.temperature)
    uvicorn.run(app, host=options.host, port=port)


def open_chat(options: Namespace) -> Chat:
    """The model of a command line. Raises ValueError for flags that a stock model has no use for."""
    from .opening import own_chat, stock_chat

    spec, knobs = model_spec(options), reduction_kwargs(options)
    if not options.stock:
        mebibytes = PICTURE_CACHE if options.picture_cache is None else options.picture_cache
        check_least(0, picture_cache=mebibytes)
        return own_chat(spec, options.served_name, mebibytes * MEGABYTE, **knobs)
    plan = knobs.pop("reduction", None)
    for flag in ("model_base", "conv_mode", "load_8bit", "load_4bit", "picture_cache", *knobs):
        if getattr(options, flag):
            raise ValueError(f"{spellings(flag)[0]} has no effect on a --stock model; leave it out")
    return stock_chat(spec, options.served_name, plan)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(parser().parse_args())))
