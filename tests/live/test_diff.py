"""`ckpt-bpf diff`: two images of a process that leaks, which are then named as what they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.live.harness import Build, Case, Target, wait_until

BLOCKS = 400
LEAKED_FILES = 6
LEAKED_PIPES = 2
ANON = 192 << 10
PAGE = 4096
CHANGED = {"leaked_blocks", "last_leak", "table", "rate", "readings"}
"""The globals that `diff_leak.c` changes between the images."""


class Pair(NamedTuple):
    """Two images of one process, and what the tool says of them."""

    before: Path
    after: Path
    text: str
    json: dict[str, Any]

    @property
    def task(self) -> dict[str, Any]:
        (task,) = self.json["tasks"]
        return dict(task)

    def growth(self, what: str) -> tuple[int, int]:
        found = {one["what"]: (one["before"], one["after"]) for one in self.task["growth"]}
        return found.get(what, (0, 0))

    def records(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.json["records"] if one["type"] == kind]


@pytest.fixture(scope="module")
def pair(build: Build) -> Iterator[Pair]:
    """Snapshot a process before and after it leaks; it must not have noticed."""
    with Target(Case("diff_leak"), build) as target:
        target.start()
        assert target.wait_ready()
        before, after = target.folder / "before.ckpt", target.folder / "after.ckpt"
        target.tool("snapshot", str(target.pid), "-o", str(before), "--leave-running")
        (target.folder / "leak").touch()
        wait_until("the leak", (target.folder / "leaked").exists, 20.0)
        target.tool("snapshot", str(target.pid), "-o", str(after), "--leave-running")
        text = target.tool("diff", str(before), str(after)).stdout
        told = json.loads(target.tool("diff", str(before), str(after), "--json").stdout)
        target.go("left_running")  # type: ignore[arg-type]
        assert target.wait_result().verdict == "PASS"
        yield Pair(before, after, text, told)


def test_exactly_the_changed_globals_are_named(pair: Pair) -> None:
    """Each with its values; what was written again with the same value is not among them."""
    found = {
        one["name"]: one for one in pair.task["pages"]["variables"] if one["file"] == "diff_leak"
    }
    assert {name for name, one in found.items() if not one["is_function"]} == CHANGED
    assert {name for name, one in found.items() if one["is_function"]} == {"patched"}
    assert f"code of patched (diff_leak, {found['patched']['address']:#x}): 1 of " in pair.text
    assert (
        f"leaked_blocks (diff_leak, {found['leaked_blocks']['address']:#x}): 3 -> 403" in pair.text
    )
    assert (found["table"]["changed_bytes"], found["table"]["offset"]) == (3, PAGE + 5)
    assert found["readings"]["offset"] == 4
    assert pair.task["pages"]["variables_complete"]


def test_the_growth_is_obvious(pair: Pair) -> None:
    """Heap, anonymous memory, pages, descriptors by kind, threads."""
    heap = pair.growth("heap_bytes")
    assert heap[1] - heap[0] >= BLOCKS * 1500 - (132 << 10)
    assert re.search(r"^  heap +132 KiB -> \d+ KiB \(\+\d+ KiB\)$", pair.text, re.M)
    anonymous = pair.growth("anonymous_bytes")
    assert anonymous[1] - anonymous[0] >= ANON
    stored = pair.growth("stored_pages")
    assert stored[1] - stored[0] >= (BLOCKS * 1500 - (132 << 10) + ANON) // PAGE
    opened = LEAKED_FILES + 2 * LEAKED_PIPES
    fds = pair.growth("fds")
    assert fds[1] - fds[0] == opened - 1
    told = f"({opened - 1:+d}: {LEAKED_FILES - 1:+d} regular, {2 * LEAKED_PIPES:+d} pipe)"
    assert told in pair.text
    threads = pair.growth("threads")
    assert threads == (1, 2)


def test_descriptors(pair: Pair) -> None:
    """Opened, closed and replaced ones, and a position."""
    by_what: dict[str, list[dict[str, Any]]] = {}
    for one in pair.task["fds"]:
        by_what.setdefault(one["what"], []).append(one)
    opened = LEAKED_FILES + 2 * LEAKED_PIPES
    assert len(by_what["opened"]) == opened
    assert len(by_what["closed"]) == 1
    (moved,) = by_what["changed"]
    assert {"field": "pos", "before": 10, "after": 9} in moved["changes"]
    assert set(by_what) == {"opened", "closed", "changed"}


def test_areas(pair: Pair) -> None:
    """The heap has grown, memory was mapped, a page has lost its write permission."""
    areas = pair.task["areas"]
    assert [one["name"] for one in areas if one["what"] == "grown" and one["name"] == "heap"]
    assert [one for one in areas if one["what"] == "mapped" and one["bytes"] == ANON]
    (changed,) = [one for one in areas if "protection" in one["changes"]]
    assert changed["changes"]["protection"] == ["rw-p", "r--p"]
    assert changed["bytes"] == PAGE


def test_signals_limits_and_threads(pair: Pair) -> None:
    """Dispositions with the handler's symbol, masks, pending signals; a new thread by name."""
    handler = r"SIGUSR1: default -> 0x[0-9a-f]+ \(diff_leak on_usr1\), flags"
    assert re.search(handler, pair.text)
    assert re.search(r"mask: none -> SIGUSR2$", pair.text, re.M)
    assert re.search(r"pending.*: none -> SIGUSR2$", pair.text, re.M)
    assert "CORE soft: " in pair.text
    new = [one for one in pair.task["threads"] if one["what"] == "new"]
    assert [one["comm"][1] for one in new] == ["leaked"]
    assert pair.records("limits")[0]["changes"][0]["field"] == "limits[4][0]"


def test_an_image_is_the_same_as_itself(pair: Pair, build: Build) -> None:
    """And the two images differ; both are no failure."""
    assert pair.json["same"] is False
    with Target(Case("diff_leak"), build) as tool:
        before = str(pair.before)
        assert json.loads(tool.tool("diff", before, before, "--json").stdout)["same"] is True
        assert tool.tool("diff", before, before).stdout.endswith("nothing differs\n")
