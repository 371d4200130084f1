"""The machine code of a restore: the seed program and the tape player, as bytes.

Owns the encoding of tape entries and the offsets of labels in the code. It runs nothing: writing
the seed to a memfd, mapping the player and setting registers is the restorer's work. The bytes
are those of ``seed.S`` and ``tape.S``; a unit test assembles both and compares. How the player
behaves (registers, traps, children of clone) is documented in ``tape.S``.
"""

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple

_U64: Final = (1 << 64) - 1
_MAX_ERRNO: Final = 4095

SEED_IMAGE: Final = bytes.fromhex(
    "7f454c4602010100000000000000000002003e0001000000b00001000000000040000000000000000000000000000000"
    "000000004000380002000000000000000100000005000000000000000000000000000100000000000000010000000000"
    "bd00000000000000bd00000000000000001000000000000051e574640600000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000001000000000000000ccebfd0f05ccebf8cd80ccebf3"
)
SEED_DEFAULT_ADDRESS: Final = 0x10000
SEED_SIZE_BYTES: Final = 0x1000
_SEED_E_ENTRY: Final = 0x18
_SEED_P_VADDR: Final = 0x50

# Offsets from the seed's load address.
SEED_START: Final = 0xB0
SEED_SYSCALL: Final = 0xB3
SEED_INT80: Final = 0xB8

TAPE_CODE: Final = bytes.fromhex(
    "4d39ec7365418b042441837c2404007537498b7c2408498b742410498b5424184d8b5424204d8b4424284d8b4c24300f"
    "054989442448492b442438493b442440772b4983c450ebb8418b5c2408418b4c2410418b542418418b742420418b7c24"
    "28418b6c2430cd80ebc7ccebfdccebfd0f05ccebf5cd80ccebf0"
)
# Offsets from the start of TAPE_CODE. A trap is reported with rip one byte behind its label.
TAPE_START: Final = 0x00
TAPE_END: Final = 0x6A
TAPE_MISMATCH: Final = 0x6D
TAPE_SYSCALL: Final = 0x70
TAPE_INT80: Final = 0x75

# u32 nr, u32 how, u64 args[6], u64 low, u64 span, u64 result: tape.S.
_ENTRY: Final = struct.Struct("<II9Q")
ENTRY_SIZE: Final = 80
ENTRY_ARGS_OFFSET: Final = 8
ENTRY_RESULT_OFFSET: Final = 72


class EntryHow(IntEnum):
    """The instruction that makes an entry's call."""

    SYSCALL = 0
    INT80 = 1


class Expect(NamedTuple):
    """Accept a result r when ``(r - low) mod 2**64 <= span``."""

    low: int
    span: int

    def accepts(self, result: int) -> bool:
        """Say whether a result, signed or unsigned, is what the entry expects."""
        return ((result - self.low) & _U64) <= self.span


EXPECT_ANY: Final = Expect(0, _U64)
EXPECT_NOT_ERROR: Final = Expect(0, _U64 - _MAX_ERRNO)
EXPECT_ZERO: Final = Expect(0, 0)


def expect_exact(value: int) -> Expect:
    """Expect one value: a count, a descriptor, an address, or a negative errno."""
    return Expect(value & _U64, 0)


def expect_between(first: int, last: int) -> Expect:
    """Expect a value from ``first`` to ``last``, both included, as signed numbers."""
    if last < first:
        raise ValueError(f"empty range {first}..{last}")
    return Expect(first & _U64, last - first)


class Entry(NamedTuple):
    """One system call of a tape.

    ``args`` has up to six numbers; negative ones are stored as two's complement. Of an ``INT80``
    entry the machine loads the low 32 bits (ebx, ecx, edx, esi, edi, ebp).
    """

    nr: int
    args: tuple[int, ...] = ()
    expect: Expect = EXPECT_ZERO
    how: EntryHow = EntryHow.SYSCALL


def pack_entries(entries: Iterable[Entry]) -> bytes:
    """Encode entries as the player reads them, ENTRY_SIZE bytes each, results zeroed."""
    return b"".join(_pack_entry(entry) for entry in entries)


def _pack_entry(entry: Entry) -> bytes:
    if len(entry.args) > 6:
        raise ValueError(f"syscall {entry.nr}: {len(entry.args)} arguments, at most 6")
    args = [arg & _U64 for arg in entry.args]
    args += [0] * (6 - len(args))
    return _ENTRY.pack(entry.nr, entry.how, *args, entry.expect.low, entry.expect.span, 0)


def parse_entries(data: bytes) -> list[tuple[Entry, int]]:
    """Decode entries and their results (signed, -errno for a failure)."""
    decoded = []
    for nr, how, *rest in _ENTRY.iter_unpack(data):
        low, span, result = rest[6:]
        entry = Entry(nr, tuple(rest[:6]), Expect(low, span), EntryHow(how))
        decoded.append((entry, _signed(result)))
    return decoded


def parse_results(data: bytes) -> list[int]:
    """Decode only the results of entries read back from the target, signed."""
    return [_signed(fields[-1]) for fields in _ENTRY.iter_unpack(data)]


def build_seed(address: int = SEED_DEFAULT_ADDRESS) -> bytes:
    """Build the seed's ELF file so that it loads its one page at ``address``.

    The caller chooses a page-aligned address which the target does not use. Entry point and
    labels are then ``address + SEED_START`` and so on.
    """
    if address % 0x1000 or not 0x1000 <= address < 1 << 47:
        raise ValueError(f"seed address {address:#x}: not a page of user memory")
    image = bytearray(SEED_IMAGE)
    struct.pack_into("<Q", image, _SEED_E_ENTRY, address + SEED_START)
    struct.pack_into("<QQ", image, _SEED_P_VADDR, address, address)
    return bytes(image)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
