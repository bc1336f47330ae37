"""Every call of a shipped shell script is one its program accepts: the scripts run, with a python that only takes notes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.entries import program

ROOT = Path(__file__).parents[2]
EVALUATIONS = sorted(file.stem for file in (ROOT / "scripts/v1_5/eval").glob("*.sh") if file.stem != "eval")
SCRIPTS = [*(f"v1_5/eval/{name}" for name in EVALUATIONS), "quickstart", "method_options", "mergers", "schedules"]
SCRIPTS += ["experiments", "analysis", "fastv_textweighted_experiment"]
TRAINING = [f"v1_5/{name}" for name in ("pretrain", "finetune", "finetune_lora", "finetune_task")]

# Notes its GPUs and words, writes to --answers-file which chunk it was, fails at chunk $FAIL.
NOTING = r"""#!/usr/bin/env bash
case "$*" in
*"print(sys.prefix)"*) echo "$NOTES"; exit ;;
-c*) exit ;;
esac
(IFS=$'\x1f'; printf '%s\n' "${CUDA_VISIBLE_DEVICES-}"$'\x1f'"$*" >>"$NOTES/calls")
chunk=all
while (($#)); do
    case "$1" in
    --chunk-idx) chunk=$2; [[ "$chunk" != "${FAIL-}" ]] || exit 1 ;;
    --answers-file) mkdir -p "$(dirname "$2")"; echo "chunk $chunk" >"$2" ;;
    esac
    shift
done
"""


def dry_run(script: str, folder: Path, *flags: str, **environment: str) -> tuple[int, list[tuple[str, list[str]]]]:
    """Exit status of a script, and the GPUs and words of every call of python in it."""
    notes = folder / "notes"
    notes.mkdir(exist_ok=True)
    (notes / "calls").unlink(missing_ok=True)
    (notes / "python").write_text(NOTING)
    (notes / "python").chmod(0o755)
    for extra in ("eval", "eval,caption", "train"):
        (notes / f".llava-condense-{extra}").touch()
    known = {
        "NOTES": str(notes),
        "PATH": f"{notes}:{os.environ['PATH']}",
        "HOME": str(folder),
        "VIRTUAL_ENV": str(notes),
    }
    data = {"MODEL": "some/model", "DATA": str(folder / "data")}
    done = subprocess.run(
        ["bash", ROOT / "scripts" / f"{script}.sh", *flags],
        env={**known, **data, **environment},
        capture_output=True,
        text=True,
    )
    calls = [line.split("\x1f") for line in (notes / "calls").read_text().splitlines()]
    return done.returncode, [(gpus, words) for gpus, *words in calls]


def test_there_are_the_scripts_of_the_benchmarks():
    assert EVALUATIONS == "coco_caption gqa mmbench mmbench_cn mme mmvet pope seed sqa textvqa vizwiz vqav2".split()


@pytest.mark.parametrize("script", SCRIPTS + TRAINING)
def test_every_call_parses(script, tmp_path):
    flags = ("--reduction", "fastv@2:64") if script.startswith("v1_5") else ()
    status, calls = dry_run(script, tmp_path, *flags)
    assert status == 0 and len(calls) >= (1 if script in TRAINING else 2)
    for _, words in calls:
        parser, rest = program(words)
        parser.parse_args(rest)


def test_the_rank_sweeps_have_the_documented_names(tmp_path):
    _, calls = dry_run("fastv_textweighted_experiment", tmp_path, LAYER="3", RESULTS="out")
    written = [
        words[words.index(flag) + 1]
        for _, words in calls
        for flag in ("--output-file", "--output-plot")
        if flag in words
    ]
    assert written[:2] == [f"out/fastv_textweighted_layer3_experiment.{ending}" for ending in ("json", "png")]
    assert [words[-6:-4] for _, words in calls][-1] == [written[0], "out/fastv_rank_layer3_experiment.json"]


def test_an_unknown_flag_is_found(tmp_path):
    _, calls = dry_run("v1_5/eval/mme", tmp_path, "--use-ours")
    parser, rest = program(calls[0][1])
    with pytest.raises(SystemExit):
        parser.parse_args(rest)


@pytest.mark.parametrize("script", EVALUATIONS)
def test_answers_are_greedy_and_reduced_as_asked(script, tmp_path):
    _, ((gpus, asked), *later) = dry_run(f"v1_5/eval/{script}", tmp_path, "--reduction", "fastv@2:64")
    parser, rest = program(asked)
    given = parser.parse_args(rest)
    assert (given.temperature, given.conv_mode, given.reduction) == (0, "vicuna_v1", "fastv@2:64")
    assert (given.model_path, given.num_chunks) == ("some/model", 1)
    assert str(given.question_file).startswith(str(tmp_path)) and gpus == ""
    assert "model-reduction-fastv@2-64" in str(given.answers_file)
    assert later and all("some/model" not in words for _, words in later)


JOINED = {
    "mme": "mine.jsonl",
    "gqa": "llava_gqa_testdev_balanced/mine/merge.jsonl",
    "mmbench_cn": "mmbench_dev_cn_20231003/mine.jsonl",
    "seed": "mine/merge.jsonl",
}


@pytest.mark.parametrize("script", JOINED)
def test_gpus_share_the_questions_and_answers_are_joined_in_order(script, tmp_path):
    status, calls = dry_run(f"v1_5/eval/{script}", tmp_path, EXP="mine", CUDA_VISIBLE_DEVICES="3,0,5")
    chunks = {words[words.index("--chunk-idx") + 1]: gpus for gpus, words in calls if "--chunk-idx" in words}
    assert status == 0 and chunks == {"0": "3", "1": "0", "2": "5"}
    folder = tmp_path / "data/answers"
    joined = folder / JOINED[script]
    assert joined.read_text() == "chunk 0\nchunk 1\nchunk 2\n"
    parts = joined.with_suffix("") if joined.stem == "mine" else joined.parent
    assert (parts / "3_1.jsonl").read_text() == "chunk 1\n"


def test_a_failed_chunk_fails_the_script_and_nothing_is_scored(tmp_path):
    status, calls = dry_run("v1_5/eval/mme", tmp_path, EXP="mine", CUDA_VISIBLE_DEVICES="0,1", FAIL="1")
    assert status == 1
    assert all("llava.eval.model_vqa_loader" in words for _, words in calls)
    assert not (tmp_path / "data/answers/mine.jsonl").exists()
