"""Writes a checkpoint that runs under a plan, for programs that pass none on: a folder of links and a config.

    llava plan playground/checkpoints/llava-shapes-v1 "fastv@2:64" --output planned

Whatever loads a LLaVA through this package and is given that folder runs the plan. The weights are not copied.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava.conversation import conversation_mode
from llava.files import read_json, write_json
from llava.folders import is_made, new_folder
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import read_config
from llava.model.checkpoint import find_folder, weight_files
from llava.model.language_model.reduction_knobs import METHOD_FLAGS
from llava.reduction import check_plan, plan_from
from llava.reduction.plan import Spec
from llava.utils import exit_code

logger = logging.getLogger(__name__)

CONFIG = "config.json"
MARK = "plan.json"  # says what the folder was made from


def write_planned(checkpoint: str | Path, reduction: Spec, output: str | Path) -> Path:
    """Write a folder that is the checkpoint under a plan: links to its files, and its config with the plan in it.

    checkpoint: folder or hub name of a whole model. reduction: any spelling; it takes the place of the plan that the config
    has. The config also names the template, which otherwise the folder's name would decide. A folder that was made from
    the same is left as it is; ``output`` is whole or not there. Raises ValueError for what is not a plan, a plan that
    the model cannot run, a folder that is no model, and an output that holds something else, and FileNotFoundError for
    a missing checkpoint.
    """
    plan, output = plan_from(reduction), Path(output)
    if not plan:
        raise ValueError('the plan is empty; give one such as fastv@2:64, or "full"')
    folder = find_folder(checkpoint, "checkpoint").resolve()
    config = read_config(folder)
    weight_files(folder)
    check_plan(plan, config.num_hidden_layers)
    if output.resolve().is_relative_to(folder):
        raise ValueError(f"output={str(output)!r} lies in the checkpoint {folder}; give a folder outside of it")
    spelled = "+".join(map(str, plan))
    made = {"checkpoint": str(folder), "reduction": spelled}
    if is_made(output, MARK, made, "checkpoint with a plan", "written"):
        logger.info("%s is complete, nothing to write", output)
        return output
    fields: dict[str, Any] = read_json(folder / CONFIG)
    fields |= {flag: False for flag in METHOD_FLAGS if fields.get(flag)}
    mode = conversation_mode(get_model_name_from_path(str(checkpoint)), config)
    with new_folder(output) as partial:
        _link(folder, partial)
        write_json(partial / CONFIG, fields | {"reduction": spelled, "conv_mode": mode})
        write_json(partial / MARK, made)
    logger.info("%s is %s under %s", output, checkpoint, spelled)
    return output


def _link(folder: Path, output: Path) -> None:
    """Every file of a folder, config and mark excepted, as a link at the same place; hidden ones are left out."""
    for file in sorted(folder.rglob("*")):
        place = file.relative_to(folder)
        if any(part.startswith(".") for part in place.parts) or str(place) in (CONFIG, MARK):
            continue
        if file.is_dir():
            (output / place).mkdir(parents=True, exist_ok=True)
        else:
            (output / place).symlink_to(file.resolve())


def parser() -> argparse.ArgumentParser:
    """Checkpoint, plan and output."""
    flags = argparse.ArgumentParser(
        prog="llava plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("checkpoint", help="folder or hub name of a whole model")
    flags.add_argument("reduction", metavar="plan", help="a plan such as fastv@2:64, or a YAML file")
    flags.add_argument("--output", required=True, type=Path, help="new folder")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    options = parser().parse_args(arguments)
    return exit_code(lambda: write_planned(options.checkpoint, options.reduction, options.output))


if __name__ == "__main__":
    sys.exit(main())
