"""The header: what the rest of the image must be read with, and the machine it comes from."""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from ckpt.image.errors import ImageCorruptError, ImageVersionError, quoted
from ckpt.image.format import FORMAT_VERSION, MAGIC

_PREFIX: Final = struct.Struct("<8sII")
"""Magic, format version, zero."""

_encoder = msgspec.msgpack.Encoder(order="deterministic")


class Clocks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The clocks at the freeze, in ns, as the target's time namespace shows them."""

    monotonic_ns: int
    boottime_ns: int
    realtime_ns: int


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first frame of an image."""

    arch: str
    """Name of the folder in `arch/` whose records the image holds."""
    page_size: int
    kernel_release: str
    kernel_version: str
    machine: str
    vdso_hash: str
    boot_id: str
    clocks: Clocks
    options: dict[str, bool | int | float | str | None] = {}
    """What the user asked of the snapshot."""
    constants: dict[str, int] = {}
    """Facts of kernel and CPU that a restore depends on (xfeatures, task size, ...)."""
    tool_version: str = ""


_decoder = msgspec.msgpack.Decoder(Header)


def encode_header(header: Header) -> bytes:
    """Return the payload of a header frame."""
    return _PREFIX.pack(MAGIC, FORMAT_VERSION, 0) + _encoder.encode(header)


def decode_header(payload: bytes | memoryview, *, path: str, arch: str) -> Header:
    """Return the header in `payload`, whose checksum has been checked.

    Raises ImageVersionError when format or architecture are not ours, else ImageCorruptError.
    """
    if len(payload) < _PREFIX.size or bytes(payload[: len(MAGIC)]) != MAGIC:
        raise ImageCorruptError("not a ckpt-bpf image (no magic)", path=path, offset=0)
    _, version, zero = _PREFIX.unpack_from(payload)
    if version != FORMAT_VERSION:
        what = f"format version {version}, this program reads version {FORMAT_VERSION}"
        raise ImageVersionError(what, path=path, offset=0)
    try:
        header = _decoder.decode(payload[_PREFIX.size :])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        what = f"header does not decode: {quoted(str(error))}"
        raise ImageCorruptError(what, path=path, offset=0) from error
    _check_header(header, zero, path, arch)
    return header


def _check_header(header: Header, zero: int, path: str, arch: str) -> None:
    if zero:
        raise ImageCorruptError("reserved field of the header is not zero", path=path, offset=0)
    if header.arch != arch:
        what = f"image of architecture {quoted(header.arch)}, this machine is {arch}"
        raise ImageVersionError(what, path=path, hint="restore it on such a machine")
    size = header.page_size
    if not 4096 <= size <= 65536 or size & (size - 1):
        raise ImageCorruptError(f"impossible page size {size}", path=path, offset=0)
