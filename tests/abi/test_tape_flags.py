"""Every name that planned calls are written with has its value in the installed headers."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpt.debug.tape_flags import NEWER, SETS
from tests.abi.test_abi import ask_headers, needs_gcc


@needs_gcc
@pytest.mark.parametrize("which", SETS)
def test_names(which: str, tmp_path: Path) -> None:
    constants = SETS[which]
    values = {name: value for value, name in constants.names.items() if name not in NEWER}
    if not values:
        pytest.skip("not run: all of these are newer than the headers of Linux 6.1")
    answers = ask_headers((constants.header,), list(values), tmp_path)
    found = dict(zip(values, (answer & 0xFFFF_FFFF for answer in answers), strict=True))
    assert found == values
