"""Finding how the code at one address is unwound: `.eh_frame_hdr`, one FDE, its CIE.

The sorted table of `.eh_frame_hdr` leads to one entry in log2(n) reads; nothing else of `.eh_frame`
is looked at. Layouts: the Linux Standard Base, "Exception frames".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.debug.unwind_data import DW_EH_PE_OMIT, Cursor, MalformedError

if TYPE_CHECKING:
    from ckpt.debug.space import Module, Space

_HEAD_BYTES: Final = 12
_ROW_BYTES: Final = 8
_SORTED_DATAREL_SDATA4: Final = 0x3B
"""The only table encoding that linkers write."""
_MAX_ENTRY_BYTES: Final = 64 << 10
_LONG_LENGTH: Final = 0xFFFFFFFF
_SIGNED_VERSIONS: Final = (1, 3, 4)


class Cie(NamedTuple):
    """What several entries have in common."""

    code_align: int
    data_align: int
    return_register: int
    pointer_encoding: int
    has_augmentation_data: bool
    is_signal_frame: bool
    program: bytes
    program_at: int


class Entry(NamedTuple):
    """The call frame information of one function: half-open range, and the rules' programs."""

    start: int
    end: int
    cie: Cie
    program: bytes
    program_at: int


def find_entry(space: Space, module: Module, address: int) -> Entry | None:
    """Return the entry of the function at `address`, None when the module has none for it.

    Raises:
        MalformedError: the module's table makes no sense.
    """
    start, end = module.unwind_table
    place = _search(space, start, end, address) if start < end else 0
    if not place:
        return None
    entry = read_entry(space, place)
    return entry if entry.start <= address < entry.end else None


def _search(space: Space, start: int, end: int, address: int) -> int:
    """Return where the entry stands whose function begins last before `address`; 0: nowhere."""
    head = Cursor(space.read(start, _HEAD_BYTES + 8), start, start)
    version, frame_encoding, count_encoding, table_encoding = head.take(4)
    if version != 1 or table_encoding != _SORTED_DATAREL_SDATA4 or count_encoding == DW_EH_PE_OMIT:
        raise MalformedError("no sorted table in .eh_frame_hdr")
    head.pointer(frame_encoding, relative=False)
    count = head.pointer(count_encoding, relative=False)
    table = start + head.at
    low, high = 0, min(count, max(end - table, 0) // _ROW_BYTES)
    found = 0
    while low < high:
        middle = (low + high) // 2
        row = Cursor(space.read(table + middle * _ROW_BYTES, _ROW_BYTES))
        function, entry = start + row.signed(4), start + row.signed(4)
        if function <= address:
            low, found = middle + 1, entry
        else:
            high = middle
    return found


def read_entry(space: Space, place: int) -> Entry:
    """Read the FDE at `place`, and its CIE."""
    body, body_at = _read_body(space, place)
    cursor = Cursor(body, body_at)
    distance = cursor.unsigned(4)
    if not distance:
        raise MalformedError("the table leads to a CIE")
    cie = _read_cie(space, body_at - distance)
    start = cursor.pointer(cie.pointer_encoding)
    size = cursor.pointer(cie.pointer_encoding, relative=False)
    if cie.has_augmentation_data:
        cursor.block()
    return Entry(start, start + size, cie, body[cursor.at :], body_at + cursor.at)


def _read_body(space: Space, place: int) -> tuple[bytes, int]:
    """Return what follows the length of a CIE or FDE, and where that stands."""
    length = Cursor(space.read(place, 4)).unsigned(4)
    if length == _LONG_LENGTH or not 4 <= length <= _MAX_ENTRY_BYTES:
        raise MalformedError(f"an entry of {length} bytes")
    body = space.read(place + 4, length)
    if len(body) != length:
        raise MalformedError("it ends too early")
    return body, place + 4


def _read_cie(space: Space, place: int) -> Cie:
    body, body_at = _read_body(space, place)
    cursor = Cursor(body, body_at)
    kind, version = cursor.unsigned(4), cursor.unsigned(1)
    if kind or version not in _SIGNED_VERSIONS:
        raise MalformedError("no CIE where an entry says")
    augmentation = cursor.text()
    if version == 4 and cursor.take(2) != b"\x08\0":
        raise MalformedError("not for 64-bit addresses")
    code_align, data_align = cursor.uleb(), cursor.sleb()
    register = cursor.unsigned(1) if version == 1 else cursor.uleb()
    encoding, is_signal = 0, False
    if augmentation.startswith(b"z"):
        encoding, is_signal = _read_augmentation(augmentation[1:], cursor)
    elif augmentation:
        raise MalformedError("an augmentation without its length")
    has_data = bool(augmentation)
    program = body[cursor.at :]
    program_at = body_at + cursor.at
    return Cie(code_align, data_align, register, encoding, has_data, is_signal, program, program_at)


def _read_augmentation(letters: bytes, cursor: Cursor) -> tuple[int, bool]:
    """Return the encoding of the entries' pointers, and whether this is a signal's frame."""
    size = cursor.uleb()
    end = cursor.at + size
    encoding, is_signal = 0, False
    for letter in letters:
        if letter == ord("R"):
            encoding = cursor.unsigned(1)
        elif letter == ord("L"):
            cursor.take(1)
        elif letter == ord("P"):
            cursor.pointer(cursor.unsigned(1), relative=False)
        elif letter == ord("S"):
            is_signal = True
        else:
            break
    if not 0 <= end <= len(cursor.data):
        raise MalformedError("it ends too early")
    cursor.at = end
    return encoding, is_signal
