"""What `show` knows when the program is not there any more: gone before, or after the snapshot."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.harness import TOOL, Build, Case, Target


@pytest.fixture
def target() -> Iterator[Target]:
    """A running program whose binary is nobody else's."""
    build = Build()
    try:
        with Target(Case("show_stacks"), build) as target:
            target.start()
            assert target.wait_ready()
            yield target
    finally:
        build.remove()


def binary(target: Target) -> Path:
    return Path(target.command_line().split()[0])


def show(target: Target, *options: str, code: int = 0) -> str:
    command = [*TOOL, "show", str(target.image), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def frames_of(target: Target) -> list[str]:
    threads: list[Any] = json.loads(show(target, "--threads", "--json"))["threads"]
    leader = next(thread for thread in threads if thread["tid"] == target.pid)
    return [frame["place"] for frame in leader["backtrace"]]


def test_a_deleted_program_is_read_from_the_image(target: Target) -> None:
    binary(target).unlink()
    target.snapshot("--leave-running")
    places = " ".join(frames_of(target))
    assert "read" in places and "wait_in_read" in places and " main" in places
    assert "content in object" in show(target, "--maps", "--grep", "build-id")
    code = show(target, "--memory", "wait_in_poll:64", "--disasm")
    assert "<wait_in_poll>:" in code
    assert "sub rsp" in code or "push" in code
    assert show(target, "--memory", "show_text", "--string") == (
        r'"a\tline with \"quotes\", \x1b[31mcolour\n"' + "\n"
    )


def test_a_program_that_is_gone_is_said_to_be(target: Target) -> None:
    target.snapshot("--leave-running")
    before = frames_of(target)
    assert any("wait_in_read" in place for place in before)
    path = binary(target)
    path.unlink()
    after = frames_of(target)
    assert "read" in after[0]
    assert not any("wait_in_read" in place for place in after)
    gone = f"{path}: cannot be opened: No such file or directory"
    assert f"{gone}: only frame pointers lead on" in show(target, "--threads")
    assert "file cannot be opened: No such file" in show(target, "--memory", _text_address(target))
    assert "no such symbol" in show(target, "--memory", "wait_in_poll", code=1)
    path.write_bytes(b"another program")
    assert "is another build" in show(target, "--maps", "--grep", path.name)


def _text_address(target: Target) -> str:
    areas = json.loads(show(target, "--maps", "--json"))["maps"][0]["areas"]
    name = binary(target).name
    return hex(
        next(
            area["start"]
            for area in areas
            if area["path"] and area["path"].endswith(name) and "x" in area["permissions"]
        )
    )


def test_an_image_comes_from_a_pipe_as_well(target: Target) -> None:
    target.snapshot("--leave-running")
    with open(target.image, "rb") as image:
        command = [*TOOL, "show", "-", "--memory", "show_numbers:16", "--json"]
        piped = subprocess.Popen(["cat"], stdin=image, stdout=subprocess.PIPE)
        shown = subprocess.run(command, stdin=piped.stdout, capture_output=True, timeout=60)
        assert piped.wait(60) == 0
    [piece] = json.loads(shown.stdout)["pieces"]
    assert bytes.fromhex(piece["hex"]) == b"".join(bytes([digit * 17]) * 4 for digit in range(1, 5))
