"""Small helpers every part of the package shares."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from llava.absent import absent_names

logger = logging.getLogger(__name__)
__getattr__ = absent_names(__name__)

# What LLaVA's web servers show instead of an answer
server_error_msg = "**The server cannot answer now. Please ask again or reload the page.**"
moderation_msg = "The question was refused by the content rules. Please ask something else."


def build_logger(name: str, logger_filename: str | None = None, directory: str | os.PathLike = ".") -> logging.Logger:
    """A logger that writes one dated line per event to the terminal and, if named, to a file.

    name: the logger's name. logger_filename: a file in `directory`; None writes no file. Calling it again with the
    same arguments adds nothing. Raises OSError where the file cannot be written.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    wanted: list[logging.Handler] = []
    if not any(type(handler) is logging.StreamHandler for handler in logger.handlers):
        wanted.append(logging.StreamHandler())
    if logger_filename is not None:
        path = os.path.abspath(os.path.join(directory, logger_filename))
        if path not in {getattr(handler, "baseFilename", None) for handler in logger.handlers}:
            os.makedirs(directory, exist_ok=True)
            wanted.append(logging.FileHandler(path, encoding="utf-8"))
    for handler in wanted:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
    return logger


def disable_torch_init() -> None:
    """Does nothing; scripts written for LLaVA call it before they load a model.

    LLaVA's function replaced `reset_parameters` of Linear and LayerNorm for the whole process, so every module made
    later held uninitialised memory. transformers builds models on the meta device, so there is no time left to save.
    """


def pretty_print_semaphore(semaphore: Any) -> str:
    """A semaphore of asyncio or threading as text for a log; "None" for None."""
    if semaphore is None:
        return "None"
    value = semaphore._value
    locked = semaphore.locked() if hasattr(semaphore, "locked") else value == 0
    return f"Semaphore(value={value}, locked={locked})"


def violates_moderation(text: str) -> NoReturn:
    """Raises NotImplementedError: no text is sent anywhere from here.

    LLaVA's function posted it to an address of OpenAI's and answered False where that failed.
    """
    raise NotImplementedError(
        "llava sends no text to a moderation service; ask one yourself before the question reaches the model, e.g. "
        "openai.OpenAI().moderations.create(input=text)"
    )


def box_text(box: Iterable[float]) -> str:
    """A box as LLaVA writes it, in shares of the picture's sides: "[0.12, 0.30, 0.45, 0.77]"."""
    return f"[{', '.join(f'{value:.2f}' for value in box)}]"


def installed(package: str) -> bool:
    """Whether a package, which may be a dotted name, can be imported; nothing is imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a dotted name is absent
        return False


def exit_code(
    work: Callable[[], object],
    bad: tuple[type[Exception], ...] = (ValueError, OSError),
    stopped: str | None = None,
) -> int:
    """Run a command line's work with plain log lines: 0, or 2 for bad input, whose message is logged.

    With ``stopped``, Ctrl-C logs that sentence and gives 130; without it, Ctrl-C is raised.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        work()
    except KeyboardInterrupt:
        if stopped is None:
            raise
        logger.warning(stopped)
        return 130
    except bad as error:
        logger.error("error: %s", error)
        return 2
    return 0
