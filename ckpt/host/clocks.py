"""Clocks of tasks in other time namespaces, as differences from ours."""

from __future__ import annotations


def parse_offsets(raw: bytes) -> dict[str, int]:
    """Turn /proc/PID/timens_offsets into nanoseconds by clock name."""
    values = {}
    for line in raw.decode("ascii").splitlines():
        name, seconds, nanoseconds = line.split()
        values[name] = int(seconds) * 1_000_000_000 + int(nanoseconds)
    return values


def clocks_ahead(tid: int) -> tuple[int, int]:
    """Return by how much CLOCK_MONOTONIC and CLOCK_BOOTTIME of `tid` are ahead of ours."""
    offsets = []
    for task in (str(tid), "self"):
        try:
            with open(f"/proc/{task}/timens_offsets", "rb") as file:
                offsets.append(parse_offsets(file.read()))
        except FileNotFoundError:
            return 0, 0  # A kernel without time namespaces.
    theirs, ours = offsets
    return (
        theirs.get("monotonic", 0) - ours.get("monotonic", 0),
        theirs.get("boottime", 0) - ours.get("boottime", 0),
    )
