"""Every method against golden vectors of its released code: one test a method and case, from whatever files lie there.

They are those of ``$PARITY/peers``, or a few that come with the tests.

How a case is replayed through our method stands in ``replays/<method>.py``, as ``replay(case)``, which compares by itself:
indices exactly, numbers within the tolerance that the vectors were recorded with.
"""

from __future__ import annotations

from importlib import import_module

import pytest

from tests.reduction.methods.golden import cases


@pytest.mark.parametrize("case", cases(), ids=str)
def test_equals_the_released_code(case):
    import_module(f"tests.reduction.methods.replays.{case.method}").replay(case)
