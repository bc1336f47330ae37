"""Threads that wait do not take the cores from those that work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from llava.threads import SPINS, limit_spinning

POLICIES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.mark.parametrize("name", POLICIES)
def test_what_the_user_says_about_waiting_stands(name):
    environment = {name: "7"}
    limit_spinning(environment)
    assert environment == {name: "7"}


def test_openmp_has_the_limit_when_the_package_is_imported_first():
    """Read back from the runtime itself, which looks at the environment once, when PyTorch loads it."""
    environment = {name: value for name, value in os.environ.items() if name not in POLICIES}
    code = "import llava, torch; print(torch.__config__.parallel_info())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this PyTorch has another OpenMP runtime than GNU's")
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in done.stderr
