"""/proc/TID/status as values. Owns the field names of `fs/proc/array.c` (6.18), nothing else."""

from __future__ import annotations

import os

from ckpt.host.facts import Credentials


def parse_fields(raw: bytes) -> dict[bytes, bytes]:
    """Return the value of every line by its name, both as they stand."""
    return dict(line.split(b":\t", 1) for line in raw.split(b"\n") if b":\t" in line)


def parse_credentials(fields: dict[bytes, bytes]) -> Credentials:
    """Return the credentials that a status file shows; securebits are not among them.

    Raises:
        KeyError: the kernel shows no such line.
    """
    uids, gids = (tuple(map(int, fields[name].split())) for name in (b"Uid", b"Gid"))
    return Credentials(
        (uids[0], uids[1], uids[2], uids[3]),
        (gids[0], gids[1], gids[2], gids[3]),
        tuple(map(int, fields[b"Groups"].split())),
        int(fields[b"CapInh"], 16),
        int(fields[b"CapPrm"], 16),
        int(fields[b"CapEff"], 16),
        int(fields[b"CapBnd"], 16),
        int(fields.get(b"CapAmb", b"0"), 16),
        fields.get(b"NoNewPrivs", b"0") == b"1",
    )


def parse_speculation(fields: dict[bytes, bytes]) -> tuple[str, str]:
    """Return the words for store bypass and indirect branch speculation; "" where not shown."""
    return (
        fields.get(b"Speculation_Store_Bypass", b"").decode("ascii", "replace"),
        fields.get(b"SpeculationIndirectBranch", b"").decode("ascii", "replace"),
    )


def read_small(path: str) -> bytes:
    """Return what one read of at most 64 KiB gives: enough for every status file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)
