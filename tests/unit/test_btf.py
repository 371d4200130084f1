"""The BTF parser on a blob made by hand, on damaged ones, and against the compiler's layout."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ckpt.host.bpf_records as records
from ckpt.errors import HostError
from ckpt.host.bpf_compile import SOURCE_DIR, find_loads, read_source
from ckpt.host.bpf_headers import KERNEL_ABSENT, build_headers, scan_program, symbol_marker
from ckpt.host.bpf_store import PROGRAMS
from ckpt.host.btf import MAGIC, VMLINUX, Btf, Kind

HEADER = struct.Struct("<HBBIIIII")
SIGNED = 1 << 24


class Blob:
    """Writes a BTF blob, one type after the other."""

    def __init__(self) -> None:
        self.types = b""
        self.strings = b"\0"
        self.count = 0

    def name(self, text: str) -> int:
        if not text:
            return 0
        offset = len(self.strings)
        self.strings += text.encode() + b"\0"
        return offset

    def add(
        self, kind: Kind, name: str, size: int, trailer: bytes = b"", items: int = 0, flag: int = 0
    ) -> int:
        info = kind << 24 | items | flag << 31
        self.types += struct.pack("<III", self.name(name), info, size) + trailer
        self.count += 1
        return self.count

    def add_struct(
        self, name: str, size: int, *members: tuple[str, int, int], kind: Kind = Kind.STRUCT
    ) -> int:
        data = [struct.pack("<III", self.name(m), t, bits) for m, t, bits in members]
        return self.add(kind, name, size, b"".join(data), len(members))

    def bytes(self) -> bytes:
        sizes = (0, len(self.types), len(self.types), len(self.strings))
        return HEADER.pack(MAGIC, 1, 0, HEADER.size, *sizes) + self.types + self.strings


def build_example() -> bytes:
    """struct outer { int a; union { u64 *p; struct inner in; }; u8 bit:3 at 133; u32 list[4]; }."""
    blob = Blob()
    u32 = blob.add(Kind.INT, "unsigned int", 4, struct.pack("<I", 32))
    s32 = blob.add(Kind.INT, "int", 4, struct.pack("<I", 32 | SIGNED))
    pointer = blob.add(Kind.PTR, "", u32)
    alias = blob.add(Kind.TYPEDEF, "pid_t", blob.add(Kind.CONST, "", s32))
    inner = blob.add_struct("inner", 8, ("x", u32, 0), ("pid", alias, 32))
    union = blob.add_struct("", 8, ("p", pointer, 0), ("in", inner, 0), kind=Kind.UNION)
    array = blob.add(Kind.ARRAY, "", 0, struct.pack("<III", u32, u32, 4))
    members = [("a", s32, 0), ("", union, 64), ("bit", u32, 3 << 24 | 133), ("list", array, 160)]
    data = b"".join(struct.pack("<III", blob.name(n), t, bits) for n, t, bits in members)
    blob.add(Kind.STRUCT, "outer", 40, data, len(members), flag=1)
    blob.add(Kind.ENUM64, "big", 8, bytes(12), 1)
    blob.add(Kind.FUNC, "a_function", blob.add(Kind.FUNC_PROTO, "", 0, bytes(8), 1))
    return blob.bytes()


EXAMPLE = build_example()


def test_members_at_every_depth() -> None:
    btf = Btf(EXAMPLE)
    assert btf.struct_size("outer") == 40
    found = {
        path: (where.offset_bytes, where.size_bytes, where.c_type)
        for path in ("a", "p", "in", "in.x", "in.pid", "list")
        if (where := btf.locate("outer", path)) is not None
    }
    assert found == {
        "a": (0, 4, "__s32"),
        "p": (8, 8, "__u64"),
        "in": (8, 8, ""),
        "in.x": (8, 4, "__u32"),
        "in.pid": (12, 4, "__s32"),
        "list": (20, 16, ""),
    }
    assert btf.find(Kind.FUNC, "a_function") is not None


def test_bit_field() -> None:
    where = Btf(EXAMPLE).locate("outer", "bit")
    assert where is not None
    assert (where.offset_bytes, where.offset_bits % 8, where.bits) == (16, 5, 3)


@pytest.mark.parametrize("path", ["b", "a.b", "p.x", "in.y", "list.x"])
def test_missing_members(path: str) -> None:
    assert Btf(EXAMPLE).locate("outer", path) is None
    assert Btf(EXAMPLE).locate("nothing", path) is None


def test_headers_place_members_and_name_gaps(tmp_path: Path) -> None:
    text = """
    #define READ(type, pointer, member) not_a_use(type, member)
    /* READ(comment, x, y) */
    v = READ(outer, p, in.pid); READ_AS(outer, p, list, __u64); READ(outer, p, gone.deep);
    w = PRESENT(outer, optional) ? READ(outer, p, optional) : READ(outer___old, p, older);
    b = READ_BITS(outer, p, bit); c = SYMBOL(a_function); s = STRUCT_BYTES(inner);
    """
    headers = build_headers(Btf(EXAMPLE), scan_program(text))
    assert headers.gaps == ("outer.gone.deep",)
    assert headers.symbols == ("a_function",)
    program = (
        headers.text
        + """
    #include <stdio.h>
    #define AT(member) (int)__builtin_offsetof(struct outer, member)
    int main(void) {
        printf("%d %d %d %d %d %d %d %d", AT(in.pid), AT(list), AT(gone.deep), AT(optional),
            (int)sizeof(struct inner), outer__bit__OFFSET, outer__bit__SHIFT, outer__bit__MASK);
    }"""
    )
    numbers = [int(word) for word in run_c(tmp_path, program).split()]
    assert numbers[:2] == [12, 20]
    assert all(number >= KERNEL_ABSENT for number in numbers[2:4])
    assert numbers[4:] == [8, 16, 5, 7]
    assert f"{symbol_marker('a_function'):#x}" in headers.text


def run_c(folder: Path, text: str) -> str:
    source, binary = folder / "test.c", folder / "test"
    source.write_text(text)
    command = ["gcc", "-w", f"-I{SOURCE_DIR}", "-o", str(binary), str(source)]
    subprocess.run(command, check=True)
    return subprocess.run([binary], check=True, capture_output=True, text=True).stdout


@given(st.integers(0, len(EXAMPLE) - 1))
def test_truncated(length: int) -> None:
    with pytest.raises(HostError):
        Btf(EXAMPLE[:length]).locate("outer", "list")


@given(st.integers(0, len(EXAMPLE) * 8 - 1))
def test_a_flipped_bit_never_crashes(bit: int) -> None:
    damaged = bytearray(EXAMPLE)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        Btf(bytes(damaged)).locate("outer", "in.pid")
    except HostError:
        pass


@pytest.mark.skipif(not VMLINUX.exists(), reason="not run: the kernel has no BTF")
def test_every_program_against_the_running_kernel() -> None:
    btf = Btf.read_vmlinux()
    for name in PROGRAMS:
        headers = build_headers(btf, scan_program(read_source(name)))
        assert len(headers.gaps) <= 3, headers.gaps


def test_loads_of_constants() -> None:
    wide = struct.pack("<BBhi", 0x18, 0x12, 0, 0x55667788) + struct.pack("<BBhi", 0, 0, 0, -1)
    other = struct.pack("<BBhi", 0xB7, 0, 0, 1)
    assert list(find_loads(other + wide + other)) == [(1, 1, 0xFFFFFFFF_55667788)]


def fields_of(name: str) -> tuple[type[msgspec.Struct], struct.Struct]:
    """Return the class of a record and its format."""
    return getattr(records, "".join(w.capitalize() for w in name.split("_"))), getattr(
        records, name.upper()
    )


RECORDS = [
    ("restart", "restart"),
    ("tasks", "tasks_core"),
    ("tasks", "tasks_abi"),
    ("tasks", "tasks_restart"),
    ("tasks", "tasks_blocked"),
    ("tasks", "tasks_namespaces"),
    ("tasks", "tasks_process"),
    ("tasks", "tasks_mm"),
    ("timers", "timers_record"),
    ("files", "files_record"),
    ("areas", "areas_record"),
    ("events", "events_record"),
    ("peers", "peers_record"),
]


@pytest.mark.parametrize(("header", "name"), RECORDS)
def test_records_are_laid_out_as_in_c(header: str, name: str, tmp_path: Path) -> None:
    """Offset of every field: where Python's format puts it, and where the compiler does."""
    record, layout = fields_of(name)
    names = list(record.__struct_fields__)
    expected = list(offsets_of(layout.format))
    assert len(names) == len(expected)
    paths = [c_path(name, field) for field in names]
    prints = "".join(
        f'printf("%d ", (int)__builtin_offsetof(struct {name}, {path}));' for path in paths
    )
    text = f"""
    #include <linux/types.h>
    #include <stdio.h>
    #include "{header}.h"
    int main(void) {{ {prints} printf("%d", (int)sizeof(struct {name})); }}"""
    *offsets, size = [int(word) for word in run_c(tmp_path, text).split()]
    assert dict(zip(names, offsets, strict=True)) == dict(zip(names, expected, strict=True))
    assert size == layout.size


def test_the_record_of_stacks_is_laid_out_as_in_c(tmp_path: Path) -> None:
    """Its head field by field, and where its two arrays are."""
    names = list(records.StackRecord.__struct_fields__)
    offsets = [*offsets_of(records.STACK_HEAD.format), records.STACK_HEAD.size]
    expected = [*offsets, records.STACK_HEAD.size + 8 * records.STACK_USER_WORDS]
    prints = "".join(
        f'printf("%d ", (int)__builtin_offsetof(struct stack_record, {name}));'
        for name in [*names, "user", "frames"]
    )
    text = f"""
    #include <linux/types.h>
    #include <stdio.h>
    #include "stack.h"
    int main(void) {{ {prints} printf("%d %d", (int)sizeof(struct stack_record),
    STACK_MAX_FRAMES); }}"""
    *found, size, frames = [int(word) for word in run_c(tmp_path, text).split()]
    assert found == expected
    assert (size, frames) == (records.STACK_RECORD.size, records.STACK_MAX_FRAMES)


def c_path(name: str, field: str) -> str:
    """Return where a flat field lies in the C struct."""
    if name == "tasks_restart" and field not in {"kind", "size"}:
        return f"block.{field}"
    if name == "events_record" and field in records.Restart.__struct_fields__:
        return f"restart.{field}"
    operations = {"release", "read_iter", "read", "write", "poll", "open", "unlocked_ioctl"}
    if name == "files_record" and field in operations | {"iterate_shared", "show_fdinfo"}:
        return f"operations.{field}"
    return field


def offsets_of(layout: str) -> Iterator[int]:
    """Yield the offset of each item of a struct format without padding."""
    offset, count = 0, ""
    for letter in layout.removeprefix("<"):
        if letter.isdigit():
            count += letter
            continue
        repeat = 1 if letter == "s" else int(count or 1)
        for _ in range(repeat):
            yield offset
            offset += struct.calcsize(f"<{count}s" if letter == "s" else f"<{letter}")
        count = ""


def test_constants_are_those_of_the_headers(tmp_path: Path) -> None:
    from ckpt.host import bpf, bpf_decode_files, bpf_sort

    values = {
        "TASKS_LDT": bpf_sort.LDT,
        "TASKS_CORE": bpf_sort.CORE,
        "TASKS_MM": bpf_sort.MM,
        "TASKS_BYTES_HEADER": bpf_sort.HEADER_BYTES,
        "__builtin_offsetof(struct tasks_bytes, bytes)": bpf_sort.HEADER_BYTES,
        "TIMERS_A_PASS": bpf._TIMERS_A_PASS,
        "AREAS_SHORT_BYTES": bpf_decode_files._AREA_SHORT_BYTES,
        "__builtin_offsetof(struct areas_record, anon_name)": bpf_decode_files._AREA_SHORT_BYTES,
    }
    prints = "".join(f'printf("%d ", (int){name});' for name in values)
    text = f"""
    #include <linux/types.h>
    #include <stdio.h>
    #include "tasks.h"
    #include "timers.h"
    #include "areas.h"
    int main(void) {{ {prints} }}"""
    assert [int(word) for word in run_c(tmp_path, text).split()] == list(values.values())


def test_uapi_layouts_and_constants(tmp_path: Path) -> None:
    """Against the installed linux/btf.h and linux/bpf.h (of Linux 6.1 or later)."""
    from ckpt.host import bpf_compile, bpf_load, btf

    values = {
        "sizeof(struct btf_header)": btf._HEADER.size,
        "sizeof(struct btf_type)": btf._TYPE.size,
        "sizeof(struct btf_member)": btf._MEMBER.size,
        "sizeof(struct btf_array)": btf._ARRAY.size,
        "BTF_MAGIC": MAGIC,
        **{f"BTF_KIND_{kind.name}": kind.value for kind in Kind if kind is not Kind.VOID},
        "sizeof(struct bpf_insn)": bpf_compile._INSTRUCTION.size,
        "BPF_LD | BPF_IMM | BPF_DW": bpf_compile._LD_IMM64,
        "BPF_PSEUDO_MAP_FD": bpf_compile._PSEUDO_MAP_FD,
        "BPF_PROG_TYPE_RAW_TRACEPOINT": bpf_load._RAW_TRACEPOINT,
        "BPF_PROG_TYPE_TRACING": bpf_load._TRACING,
        "BPF_TRACE_ITER": bpf_load._TRACE_ITER,
        "sizeof(union bpf_iter_link_info)": ctypes.sizeof(bpf_load._TaskLimit),
    }
    prints = "".join(f'printf("%d ", (int)({name}));' for name in values)
    text = f"""
    #include <linux/bpf.h>
    #include <linux/btf.h>
    #include <stdio.h>
    int main(void) {{ {prints} }}"""
    found = [int(word) for word in run_c(tmp_path, text).split()]
    assert dict(zip(values, found, strict=True)) == values
