"""The page behind a port: no file of this machine is given out, no address is fetched, nothing is reported anywhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import gradio  # pyright: ignore[reportMissingImports]  an extra
from gradio import processing_utils  # pyright: ignore[reportMissingImports]

from .asking import Asker
from .examples import write_examples
from .page import STYLE, build, theme

SESSIONS = 100  # readers whose last answers are remembered


@contextmanager
def served(asker: Asker, host: str, port: int, folder: Path, share: bool = False) -> Iterator[str]:
    """Show the page of a model while the block lasts; gives its address. folder: for the examples."""
    refuse_downloads()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # in gradio's calls to itself
    page = build(asker, write_examples(folder))
    try:
        warm_up(asker, folder)
        _, local, public = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            allowed_paths=[],
            blocked_paths=[str(Path.cwd())],
            max_file_size=asker.limits.image_bytes,
            state_session_capacity=SESSIONS,
            enable_monitoring=False,
            ssr_mode=False,
            footer_links=[],
            theme=theme(),
            css_paths=STYLE,
        )
        yield public or local
    finally:
        page.close(verbose=False)


def warm_up(asker: Asker, folder: Path) -> None:
    """Answer an example once, so that the first answer of the first reader takes no longer than the others."""
    file, question = write_examples(folder)[0]
    for _ in asker.ask(file, question, ["full"]):
        pass


def refuse_downloads() -> None:
    """Have gradio fetch no address that a client sends in place of a picture, for the whole process.

    Raises ValueError for a gradio that fetches them elsewhere.
    """
    if not hasattr(processing_utils, "async_ssrf_protected_get"):
        raise ValueError(f"gradio {gradio.__version__} is not supported; pip install 'llava-condense[demo]'")
    processing_utils.async_ssrf_protected_get = _refused


async def _refused(url: str) -> NoReturn:
    raise ValueError(f"addresses are not fetched: {url[:80]}")
