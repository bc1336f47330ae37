"""How the threads of PyTorch wait for one another; set before PyTorch is imported, or it has no effect."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

SPINS = "1000"


def limit_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make a thread that waits for the others go to sleep soon, unless the environment says how it should wait.

    GNU's OpenMP, which PyTorch uses on the CPU, spins 300,000 times at the end of every parallel step. On a machine with
    other work the thread that is waited for has no core to run on meanwhile: with two processes of two threads on two busy
    cores, one answer of the embedded model took 7.1 seconds of processor time, and 1.1 with this limit.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(environment):
        environment["GOMP_SPINCOUNT"] = SPINS
