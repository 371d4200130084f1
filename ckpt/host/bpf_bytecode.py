"""Compiled BPF programs as data: what the compiler process hands over and the cache keeps."""

from __future__ import annotations

import msgspec


class MapSpec(msgspec.Struct, frozen=True):
    """A map that has to exist before its programs are loaded."""

    name: str
    type: int
    key_bytes: int
    value_bytes: int
    max_entries: int


class Program(msgspec.Struct, frozen=True):
    """One BPF function.

    ``symbols`` and ``maps`` are (index of a 16-byte load instruction, name): where the address of a
    kernel function, or a map's descriptor, has to be filled in.
    """

    kind: str
    """"iter" or "raw_tracepoint"."""
    attach: str
    """Target of the iterator, or name of the tracepoint."""
    btf_id: int
    """BTF number of bpf_iter_TARGET; 0 for tracepoints."""
    instructions: bytes
    symbols: tuple[tuple[int, str], ...]
    maps: tuple[tuple[int, str], ...]


class Bytecode(msgspec.Struct, frozen=True):
    """All programs of one ``bpf/NAME.bpf.c``; ``gaps`` are struct members this kernel lacks."""

    programs: tuple[Program, ...]
    maps: tuple[MapSpec, ...]
    gaps: tuple[str, ...]
