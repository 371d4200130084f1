"""Restartable sequences: the two structures, and the kernel's rule for leaving one.

Sources: include/uapi/linux/rseq.h; rseq_ip_fixup() and in_rseq_cs() of kernel/rseq.c, Linux 6.x.
"""

import struct
from typing import Final, NamedTuple

from ckpt.arch.x86_64.regs import ADDRESS_END_5LEVEL

# struct rseq: cpu_id_start, cpu_id, rseq_cs, flags, node_id, mm_cid; the original 32 bytes.
RSEQ: Final = struct.Struct("<IIQIII4x")
RSEQ_CS_FIELD_OFFSET: Final = 8
RSEQ_MIN_SIZE: Final = 32
# struct rseq_cs: version, flags, start_ip, post_commit_offset, abort_ip.
RSEQ_CS: Final = struct.Struct("<IIQQQ")
RSEQ_CS_SIZE: Final = 32
SIGNATURE_SIZE: Final = 4


class Rseq(NamedTuple):
    """struct rseq: what a thread shares with the kernel."""

    cpu_id_start: int
    cpu_id: int
    rseq_cs: int
    flags: int
    node_id: int
    mm_cid: int


class RseqCs(NamedTuple):
    """struct rseq_cs: one critical section."""

    version: int
    flags: int
    start_ip: int
    post_commit_offset: int
    abort_ip: int


def parse_rseq(data: bytes) -> Rseq:
    """Decode the first 32 bytes of struct rseq."""
    return Rseq._make(RSEQ.unpack(data[: RSEQ.size]))


def parse_rseq_cs(data: bytes) -> RseqCs:
    """Decode the 32 bytes of struct rseq_cs."""
    return RseqCs._make(RSEQ_CS.unpack(data))


def encode_rseq_cs(section: RseqCs) -> bytes:
    """Encode struct rseq_cs."""
    return RSEQ_CS.pack(*section)


def find_abort_ip(rip: int, section: RseqCs) -> int | None:
    """Return where a thread that was stopped at ``rip`` goes on, None for where it is.

    Inside of the section that is its abort handler, and the kernel also clears the rseq_cs field
    of struct rseq. Outside, the pointer is merely stale. Call it only for sound sections.
    """
    # in_rseq_cs(): one unsigned subtraction, so that the section may start anywhere.
    inside = (rip - section.start_ip) & ((1 << 64) - 1) < section.post_commit_offset
    return section.abort_ip if inside else None


def check_rseq_cs(
    section: RseqCs, signature: int, before_abort: bytes, address_end: int = ADDRESS_END_5LEVEL
) -> list[str]:
    """List why the kernel would kill a thread for this section.

    ``before_abort`` holds the four bytes before abort_ip, which must equal the signature that
    the thread registered with.
    """
    problems = []
    if section.version or section.flags:
        problems.append(f"rseq_cs version {section.version} flags {section.flags:#x}")
    end = section.start_ip + section.post_commit_offset
    if max(section.start_ip, end, section.abort_ip) >= address_end:
        problems.append("rseq_cs lies outside of user addresses")
    if section.start_ip <= section.abort_ip < end:
        problems.append(f"rseq_cs abort_ip {section.abort_ip:#x} is inside of the section")
    if before_abort != signature.to_bytes(SIGNATURE_SIZE, "little"):
        problems.append(f"no signature before abort_ip {section.abort_ip:#x}")
    return problems
