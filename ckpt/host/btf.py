"""Layouts of kernel structs, read from BTF (the running kernel's own type information).

Owns the binary format and nothing else; what is made of the layouts is ``bpf_headers``. Only a cold
run (empty bytecode cache) comes here: parsing takes some tenths of a second.

Source of the format: Documentation/bpf/btf.rst and include/uapi/linux/btf.h (6.18).
"""

from __future__ import annotations

import struct
from array import array
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

from ckpt.errors import HostError

VMLINUX: Final = Path("/sys/kernel/btf/vmlinux")
MAGIC: Final = 0xEB9F

_HEADER: Final = struct.Struct("<HBBIIIII")
"""struct btf_header: magic, version, flags, hdr_len, type_off, type_len, str_off, str_len."""
_TYPE: Final = struct.Struct("<III")
"""struct btf_type: name_off, info, size or type."""
_MEMBER: Final = struct.Struct("<III")
"""struct btf_member: name_off, type, offset."""
_ARRAY: Final = struct.Struct("<III")
"""struct btf_array: type, index_type, nelems."""


class Kind(IntEnum):
    """BTF_KIND_*."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_TRAILER_FIXED: Final = {Kind.INT: 4, Kind.ARRAY: 12, Kind.VAR: 4, Kind.DECL_TAG: 4}
_TRAILER_PER_ITEM: Final = {
    Kind.STRUCT: 12,
    Kind.UNION: 12,
    Kind.ENUM: 8,
    Kind.FUNC_PROTO: 8,
    Kind.DATASEC: 12,
    Kind.ENUM64: 12,
}
_ALIASES: Final = frozenset({Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG})
_MAX_NESTING: Final = 16
"""Of anonymous structs and unions; the kernel's are a few levels deep."""
_INT_SIGNED: Final = 1 << 24
_ENUM_SIGNED: Final = 1 << 31


class Location(NamedTuple):
    """Where a member lies inside a struct, and the C scalar it can be read as.

    ``c_type`` is "" for aggregates (structs, unions, arrays): they are only copied as bytes.
    Bit fields have ``bits`` > 0 and start at bit ``offset_bits``.
    """

    offset_bits: int
    size_bytes: int
    c_type: str
    bits: int

    @property
    def offset_bytes(self) -> int:
        """Offset of the first byte that holds the member."""
        return self.offset_bits // 8


class Type(NamedTuple):
    """A struct btf_type with its place in the type section."""

    name_off: int
    kind: Kind
    items: int
    is_bitfield: bool
    size_or_type: int
    trailer: int


class Btf:
    """One BTF blob. Types have numbers from 1; 0 is void.

    Raises HostError when the blob is not BTF, or points outside of itself.
    """

    def __init__(self, blob: bytes) -> None:
        try:
            magic, _version, _flags, hdr_len, *sections = _HEADER.unpack_from(blob)
        except struct.error as error:
            raise HostError("shorter than a BTF header", where="BTF") from error
        if magic != MAGIC:
            raise HostError(f"bad magic {magic:#x}", where="BTF")
        type_off, type_len, str_off, str_len = sections
        self._types = blob[hdr_len + type_off : hdr_len + type_off + type_len]
        self._strings = blob[hdr_len + str_off : hdr_len + str_off + str_len]
        if len(self._types) != type_len or len(self._strings) != str_len:
            raise HostError("sections reach past the end", where="BTF")

    @classmethod
    def read_vmlinux(cls) -> Btf:
        """Read the running kernel's types. Raises HostError when it has none."""
        try:
            return cls(VMLINUX.read_bytes())
        except OSError as error:
            raise HostError(
                "no type information",
                where=str(VMLINUX),
                errno=error.errno,
                hint="a kernel built with CONFIG_DEBUG_INFO_BTF is needed; or use --no-bpf",
            ) from error

    @cached_property
    def _offsets(self) -> array[int]:
        """Byte offset of each type; built by walking over all of them, once."""
        types, offsets = self._types, array("I", [0])
        fixed = [_TRAILER_FIXED.get(kind, 0) for kind in Kind] + [0] * 12
        per_item = [_TRAILER_PER_ITEM.get(kind, 0) for kind in Kind] + [0] * 12
        position, end, known = 0, len(types), len(Kind)
        unpack = struct.Struct("<I").unpack_from
        while position < end:
            offsets.append(position)
            try:
                (info,) = unpack(types, position + 4)
            except struct.error as error:
                raise HostError("a type is cut off", where="BTF") from error
            kind = info >> 24 & 0x1F
            if kind >= known:
                raise HostError(f"unknown kind {kind} at byte {position}", where="BTF")
            position += 12 + fixed[kind] + per_item[kind] * (info & 0xFFFF)
        return offsets

    def type_at(self, type_id: int) -> Type:
        """Return type number ``type_id``."""
        if not 0 < type_id < len(self._offsets):
            raise HostError(f"no type number {type_id}", where="BTF")
        offset = self._offsets[type_id]
        name_off, info, size_or_type = _TYPE.unpack_from(self._types, offset)
        kind = Kind(info >> 24 & 0x1F)
        return Type(name_off, kind, info & 0xFFFF, bool(info >> 31), size_or_type, offset + 12)

    def name_of(self, name_off: int) -> str:
        """Return the string at ``name_off``; "" is the anonymous name."""
        end = self._strings.find(b"\0", name_off)
        if end < 0:
            raise HostError(f"no string at {name_off}", where="BTF")
        return self._strings[name_off:end].decode("ascii", "replace")

    @cached_property
    def _named(self) -> dict[tuple[Kind, str], int]:
        wanted = {Kind.STRUCT, Kind.UNION, Kind.FUNC}
        types, strings = self._types, self._strings
        named: dict[tuple[Kind, str], int] = {}
        unpack = struct.Struct("<II").unpack_from
        for type_id in range(1, len(self._offsets)):
            name_off, info = unpack(types, self._offsets[type_id])
            kind = info >> 24 & 0x1F
            if name_off and kind in wanted:
                name = strings[name_off : strings.find(b"\0", name_off)].decode("ascii", "replace")
                named.setdefault((Kind(kind), name), type_id)
        return named

    def find(self, kind: Kind, name: str) -> int | None:
        """Return the number of the first struct, union or function of that name."""
        return self._named.get((kind, name))

    def resolve(self, type_id: int) -> int:
        """Follow typedefs and qualifiers to what the type is."""
        for _ in range(64):
            if type_id == 0 or (found := self.type_at(type_id)).kind not in _ALIASES:
                return type_id
            type_id = found.size_or_type
        raise HostError(f"type {type_id} is an endless alias", where="BTF")

    def size_of(self, type_id: int) -> int:
        """Return the size of a type in bytes."""
        type_id = self.resolve(type_id)
        if type_id == 0:
            return 0
        found = self.type_at(type_id)
        if found.kind == Kind.PTR:
            return 8
        if found.kind == Kind.ARRAY:
            element, _index, count = _ARRAY.unpack_from(self._types, found.trailer)
            return int(count) * self.size_of(element)
        return 0 if found.kind in {Kind.FUNC, Kind.FUNC_PROTO, Kind.FWD} else found.size_or_type

    def struct_size(self, struct_name: str) -> int | None:
        """Return sizeof(struct struct_name), or None if the kernel has no such struct."""
        type_id = self.find(Kind.STRUCT, struct_name)
        return None if type_id is None else self.type_at(type_id).size_or_type

    def locate(self, struct_name: str, path: str) -> Location | None:
        """Find member ``path`` ("se.exec_start", anonymous levels left out) of a struct.

        Returns None when this kernel's struct has no such member, or there is no such struct.
        """
        type_id = self.find(Kind.STRUCT, struct_name)
        offset_bits = bits = 0
        for name in path.split("."):
            step = None if type_id is None else self._find_member(self.resolve(type_id), name)
            if step is None:
                return None
            type_id, member_bits, bits = step
            offset_bits += member_bits
        assert type_id is not None
        return Location(offset_bits, self.size_of(type_id), self._c_type(type_id), bits)

    def _find_member(
        self, type_id: int, wanted: str, depth: int = 0
    ) -> tuple[int, int, int] | None:
        """Return (type, offset in bits, width of a bit field or 0); looks into anonymous levels."""
        if type_id == 0:
            return None
        if depth > _MAX_NESTING:
            raise HostError(f"type {type_id} is inside of itself", where="BTF")
        found = self.type_at(type_id)
        if found.kind not in {Kind.STRUCT, Kind.UNION}:
            return None
        for index in range(found.items):
            name_off, member_type, offset = _MEMBER.unpack_from(
                self._types, found.trailer + index * _MEMBER.size
            )
            bits = offset >> 24 if found.is_bitfield else 0
            offset_bits = offset & 0xFFFFFF if found.is_bitfield else offset
            if name_off and self.name_of(name_off) == wanted:
                return member_type, offset_bits, bits
            if name_off:
                continue
            inner = self._find_member(self.resolve(member_type), wanted, depth + 1)
            if inner is not None:
                return inner[0], offset_bits + inner[1], inner[2]
        return None

    def _c_type(self, type_id: int) -> str:
        """Name the fixed-width C scalar that holds the type; "" for aggregates."""
        type_id = self.resolve(type_id)
        if type_id == 0:
            return ""
        found = self.type_at(type_id)
        if found.kind == Kind.PTR:
            return "__u64"
        if found.kind in {Kind.ENUM, Kind.ENUM64}:
            return f"__u{found.size_or_type * 8}"
        if found.kind != Kind.INT:
            return ""
        (encoding,) = struct.unpack_from("<I", self._types, found.trailer)
        return f"__{'s' if encoding & _INT_SIGNED else 'u'}{found.size_or_type * 8}"
