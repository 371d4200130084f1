"""The parts of `inspect` that need no process: robust lists, circles, states, text, symbols."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import capstone
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.debug.bare_view import read_bare_view
from ckpt.debug.elf import read_symbols
from ckpt.debug.futexes import FUTEX_OWNER_DIED, FUTEX_WAITERS, ROBUST_LIST_LIMIT, Futexes
from ckpt.debug.inspect import Inspector, _Look
from ckpt.debug.inspect_process import find_deadlocks
from ckpt.debug.inspect_text import tree_lines
from ckpt.debug.inspect_thread import describe_state
from ckpt.debug.inspect_types import FutexWord, ThreadReport, TreeNode
from ckpt.debug.inspect_words import duration, signals_text
from ckpt.debug.live_space import LiveSpace, find_network_devices
from ckpt.debug.symbol_store import SymbolStore, read_build_id
from ckpt.debug.tree import Family
from ckpt.debug.x86_decoder import Decoder, open_decoder
from ckpt.host.bpf_cache import Cache
from ckpt.host.kernel_view import KernelId
from ckpt.host.surroundings import PeerTask, ThreadPlace
from ckpt.objects.siginfo import name_of

PLACE = 0x10000
HEAD = PLACE
OWNER = 412
FUTEX_AT = 16
SYS_FUTEX = 202
LIBC = next(
    Path(line.split()[-1])
    for line in Path("/proc/self/maps").read_text().splitlines()
    if "/libc.so" in line
)


class Memory:
    """Words that were set; everything else is not mapped."""

    def __init__(self, words: dict[int, int]) -> None:
        self.words = words

    def read(self, address: int, size: int) -> bytes:
        content = b""
        for at in range(address - address % 8, address + size, 8):
            if at not in self.words:
                break
            content += struct.pack("<Q", self.words[at])
        return content[address % 8 :][:size]

    def locate(self, address: int) -> str:
        return "memory" if address - address % 8 in self.words else ""

    def find_area(self, address: int) -> None:
        del address

    def module_at(self, address: int) -> None:
        del address

    def find_symbol(self, address: int) -> None:
        del address


def peer(tid: int, tgid: int = OWNER, *, parent: int = 1, mm: int = 1, **call: object) -> PeerTask:
    """Return a task; `call` are further fields."""
    fields: dict[str, object] = dict.fromkeys(PeerTask.__struct_fields__, False)
    fields |= {"tid": tid, "tgid": tgid, "parent_tgid": parent, "tracer_tid": 0, "state": 1}
    fields |= {"comm": f"task{tid}", "exit_state": 0, "mm": KernelId(mm), "call_nr": -1}
    fields |= {"call_args": (0,) * 6}
    return PeerTask(**(fields | call))  # type: ignore[arg-type]


def waiter(tid: int, address: int, operation: int = 128, **more: object) -> PeerTask:
    """Return a task that waits for a futex."""
    return peer(tid, call_nr=SYS_FUTEX, call_args=(address, operation, 0, 0, 0, 0), **more)  # type: ignore[arg-type]


def futexes(words: dict[int, int], *peers: PeerTask) -> Futexes:
    """Return the futexes of process OWNER with this memory."""
    return Futexes(Memory(words), KernelId(1), OWNER, [peer(OWNER), *peers], {})


def linked(*entries: int, pending: int = 0, last: int = HEAD) -> dict[int, int]:
    """Return a robust list in memory: entries in order, their futex words FUTEX_AT behind."""
    chain = [HEAD, *(entry & ~1 for entry in entries)]
    following = [*entries, last]
    words = dict(zip(chain, following, strict=True))
    words |= {HEAD + 8: FUTEX_AT, HEAD + 16: pending}
    return words


def test_a_list_with_nothing_on_it() -> None:
    robust = futexes(linked()).walk_robust_list(HEAD, is_compat=False)
    assert (robust.entries, robust.pending, robust.problem) == ((), None, "")


def test_owner_waiters_and_flags() -> None:
    first, second = PLACE + 0x100, PLACE + 0x200
    words = linked(first, second | 1, pending=second | 1)
    words |= {first + FUTEX_AT: OWNER | FUTEX_WAITERS, second + FUTEX_AT: FUTEX_OWNER_DIED | 99}
    found = futexes(words, waiter(413, first + FUTEX_AT), waiter(414, second))
    robust = found.walk_robust_list(HEAD, is_compat=False)
    (entry,) = robust.entries
    assert entry.futex.owner == "task412" and entry.futex.has_waiters
    assert [who.tid for who in entry.futex.waiters] == [413] and not entry.is_pi
    assert robust.pending is not None and robust.pending.is_pi
    assert robust.pending.futex.owner == "not a living thread here"
    assert robust.pending.futex.owner_died


@pytest.mark.parametrize(
    ("last", "problem"),
    [(0, "null pointer"), (PLACE + 0x100, "goes in circles"), (PLACE + 0x900, "cannot be read")],
)
def test_damaged_lists(last: int, problem: str) -> None:
    words = linked(PLACE + 0x100, PLACE + 0x200, last=last)
    robust = futexes(words).walk_robust_list(HEAD, is_compat=False)
    assert problem in robust.problem and len(robust.entries) >= 2


def test_lists_end_somewhere() -> None:
    entries = [PLACE + 0x100 + 32 * n for n in range(ROBUST_LIST_LIMIT + 100)]
    robust = futexes(linked(*entries)).walk_robust_list(HEAD, is_compat=False)
    assert len(robust.entries) == ROBUST_LIST_LIMIT and "more than 2048" in robust.problem


def test_heads_that_cannot_be_read_and_compat_ones() -> None:
    assert "head" in futexes({}).walk_robust_list(HEAD, is_compat=False).problem
    entry = PLACE + 0x40
    # struct compat_robust_list_head: u32 next, s32 offset, u32 pending
    words = {HEAD: entry | (0xFFFF_FFF8 << 32), HEAD + 8: 0, entry: HEAD, entry - 8: OWNER}
    robust = futexes(words).walk_robust_list(HEAD, is_compat=True)
    assert robust.futex_offset == -8 and not robust.problem
    assert robust.entries[0].futex.owner_tid == OWNER


@given(st.dictionaries(st.integers(0, 64).map(lambda n: PLACE + 8 * n), st.integers(0, 2**64 - 1)))
def test_no_list_is_too_strange(words: dict[int, int]) -> None:
    robust = futexes(words).walk_robust_list(HEAD, is_compat=False)
    assert len(robust.entries) <= ROBUST_LIST_LIMIT


def test_the_owner_that_glibc_keeps() -> None:
    at = PLACE + 0x100
    found = futexes({at: 2, at + 8: 500}, peer(500), waiter(413, at)).describe_wait(413)
    assert found is not None and found.owner_tid == 500 and "glibc" in found.owner
    for words in ({at: 2, at + 8: 501}, {at: 7, at + 8: 500}, {at: 0, at + 8: 500}):
        word = futexes(words, peer(500), waiter(413, at)).describe_wait(413)
        assert word is not None and word.owner_tid == 0 and word.value == words[at]


def test_who_waits_and_who_does_not() -> None:
    at = PLACE + 0x100
    others = [
        waiter(1, at),
        waiter(2, at, 9),
        waiter(3, at, 1),  # FUTEX_WAKE
        waiter(4, at + 8),
        waiter(5, at, on_cpu=True),
        waiter(6, at, mm=9),  # private, in another memory
        peer(7, call_nr=455, call_args=(at, 0, 0, 128, 0, 0)),
    ]
    word = futexes({at: 0}, *others).describe(at, holds_owner=False)
    assert [who.tid for who in word.waiters] == [1, 2, 7]


def thread(tid: int, owner: int) -> ThreadReport:
    """Return a report of a thread that waits for what `owner` has."""
    word = FutexWord(0, "", 0, owner, "", False, False, ())
    fields = dict.fromkeys(ThreadReport.__struct_fields__)
    return ThreadReport(**(fields | {"tid": tid, "futex": word if owner else None}))  # type: ignore[arg-type]


def test_circles_of_waiting_threads() -> None:
    waits = {1: 2, 2: 3, 3: 2, 4: 1, 5: 5, 6: 0, 9: 8, 8: 7, 7: 9}
    found = find_deadlocks([thread(tid, owner) for tid, owner in waits.items()])
    assert sorted(found) == [(2, 3), (5,), (7, 9, 8)]


class Places:
    """An observer whose processes stand where it is told, look after look."""

    def __init__(self, *looks: dict[int, ThreadPlace]) -> None:
        self.looks = list(looks)

    def read_places(self, tgid: int) -> dict[int, ThreadPlace]:
        del tgid
        return self.looks.pop(0)

    def close(self) -> None:
        """Have nothing to close."""


def place(*, contended: bool, owner: int = 0) -> dict[int, ThreadPlace]:
    """Return where a process with one thread stands."""
    fields = dict.fromkeys(ThreadPlace.__struct_fields__, 0)
    fields |= {"is_mmap_contended": contended, "mmap_lock_owner": owner}
    return {1: ThreadPlace(**fields)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("later", "said"),
    [
        ((False,), ""),
        ((True, False), ""),
        ((True, True, True), "held for writing by thread 412"),
    ],
)
def test_memory_that_nobody_can_read_now(later: tuple[bool, ...], said: str) -> None:
    """Whoever waits for an mmap_lock that is never given back hangs as well."""
    with Inspector(use_bpf=False) as inspector:
        observer = Places(*(place(contended=each, owner=412) for each in later))
        inspector._observer = observer  # type: ignore[assignment]
        view = read_bare_view(os.getpid())
        look = _Look("bpf", view, place(contended=True, owner=412), (), ())
        found = inspector._find_stuck_lock(look)
        assert (said in found) if said else not found
        assert not observer.looks


def test_devices_whose_server_may_not_answer() -> None:
    mounts = b"""22 1 0:20 / /proc rw,nosuid shared:5 - proc proc rw
31 1 0:300 / /home rw,relatime shared:14 - nfs4 server:/home rw,vers=4.2
32 1 8:1 /a\\040b /mnt rw - ext4 /dev/nfs rw
33 1 0:45 / /gate ro - fuse.sshfs user@host: rw
"""
    assert find_network_devices(mounts) == {b"00:12c", b"00:2d"}


def test_words_for_states() -> None:
    letters = {0: "R", 1: "S", 2: "D", 0x102: "D", 0x402: "I", 4: "T", 8: "t", 0x2001: "S"}
    for state, letter in letters.items():
        assert describe_state(state, 0, on_cpu=False)[0] == letter
    assert describe_state(0, 0x20, on_cpu=False)[0] == "Z"
    assert "can be killed" in describe_state(0x102, 0, on_cpu=False)[1]
    assert describe_state(0, 0, on_cpu=True)[1] == "running"


def test_durations() -> None:
    words = {999: "999 ns", 1500: "1 us", 2_000_000: "2 ms", 1_500_000_000: "1.50 s"}
    words |= {61 * 10**9: "0:01:01", 90_061 * 10**9: "1 d 1:01:01", -5: "-5 ns"}
    assert {number: duration(number) for number in words} == words


def test_signals_of_large_sets() -> None:
    names = [name_of(number) for number in range(1, 65)]
    assert signals_text(names) == "all"
    assert signals_text(names[1:]) == "all but SIGHUP"
    assert signals_text(names[:2]) == "SIGHUP SIGINT"


def test_trees_of_text() -> None:
    tree = TreeNode(1, "a", "S", 2, "pause()", (
        TreeNode(2, "b", "Z", 1, "", ()), TreeNode(3, "c", "R", 1, "", (
            TreeNode(4, "d", "S", 1, "", ()),)),
    ))  # fmt: skip
    assert list(tree_lines(tree)) == [
        "1 a (2 threads)  S  pause()",
        " |-2 b  Z",
        " `-3 c  R",
        "   `-4 d  S",
    ]


def test_families_that_cannot_be() -> None:
    # A pid that was used again while tasks were listed may look like its own grandparent.
    family = Family([peer(10, 10, parent=11), peer(11, 11, parent=10), peer(12, 12, parent=12)])
    assert (family.descendants(10), family.descendants(12)) == ([11], [])
    tree = family.build(10)
    assert tree is not None and [node.pid for node in tree.children] == [11]
    assert family.build(99) is None


def test_our_decoder_reads_as_capstone_does() -> None:
    code = LIBC.read_bytes()[0x40000:0x48000]
    for bits, mode in ((64, capstone.CS_MODE_64), (32, capstone.CS_MODE_32)):
        ours = open_decoder(bits)
        assert isinstance(ours, Decoder)
        theirs = capstone.Cs(capstone.CS_ARCH_X86, mode)
        assert list(ours.disasm_lite(code, 0x1000)) == list(theirs.disasm_lite(code, 0x1000))


def test_symbols_that_were_kept_are_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with open(LIBC, "rb") as file, Cache(folder) as cache:
        fresh = read_symbols(file.fileno(), 1 << 26)
        first = SymbolStore(cache).symbols_of(file.fileno())
        kept = SymbolStore(cache).symbols_of(file.fileno())
    assert fresh is not None and first is not None and kept is not None
    assert len(os.listdir(folder)) == 1 and type(kept) is not type(fresh)
    assert (kept.loads, kept.unwind_table) == (fresh.loads, fresh.unwind_table)
    places = range(0x30000, 0x90000, 0x123)
    names = [kept.name_address(address) for address in places]
    assert names == [fresh.name_address(address) for address in places]
    assert len({name.partition("+")[0] for name in names}) > 100
    assert kept.find_name("malloc") == fresh.find_name("malloc")


def test_our_own_space() -> None:
    with LiveSpace(os.getpid(), os.getpid(), SymbolStore(), careful=True) as space:
        place = next(area for area in space.areas if area.special == b"[stack]")
        assert space.locate(place.start) == "[stack]" and space.find_area(1) is None
        assert len(space.read(place.end - 8192, 100_000)) == 8192
        assert space.read(1, 8) == space.read(1 << 63, 8) == space.read(place.start, -1) == b""
        code = next(area for area in space.areas if area.file >= 0 and area.flags & 4)
        module = space.module_at(code.start)
        assert module is not None and module.symbols is not None
        assert re.fullmatch("[0-9a-f]{40}", space.build_id(code.start))


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    with open(LIBC, "rb") as file, Cache(tmp_path / "cache") as cache:
        SymbolStore(cache).symbols_of(file.fileno())
        (name,) = cache.names()
        cache.store(name, b"\x91\xc0")
        found = SymbolStore(cache).symbols_of(file.fileno())
    assert found is not None and found.find_name("malloc")


@given(st.binary(max_size=200))
def test_files_that_are_no_programs(content: bytes) -> None:
    fd = os.memfd_create("no program")
    try:
        os.write(fd, b"\x7fELF\x02" + content)
        assert isinstance(read_build_id(fd), str)
        symbols = SymbolStore().symbols_of(fd)
        assert symbols is None or symbols.find_name("main") is None
    finally:
        os.close(fd)
