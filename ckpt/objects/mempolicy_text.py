"""NUMA policies: as numa_maps words them, and as set_mempolicy(2) and mbind(2) want them.

Source: `mpol_to_str` in `mm/mempolicy.c`, `include/uapi/linux/mempolicy.h`, kernel 6.18.
"""

from __future__ import annotations

from typing import Final

from ckpt.errors import PlanError
from ckpt.objects.steps import Blob, Call

SYS_MBIND: Final = 237
DEFAULT: Final = "default"
_MODES: Final = {
    "default": 0,
    "prefer": 1,
    "bind": 2,
    "interleave": 3,
    "local": 4,
    "prefer (many)": 5,
    "weighted interleave": 6,
}
_FLAGS: Final = {"static": 1 << 15, "relative": 1 << 14, "balancing": 1 << 13}
_MAX_NODES: Final = 1024


def parse_numa_maps(text: bytes) -> dict[int, str]:
    """Return the policy of each area by its start address; names with spaces stay whole."""
    found = {}
    for line in text.splitlines():
        start, _, rest = line.partition(b" ")
        found[int(start, 16)] = parse_policy(rest)
    return found


def parse_policy(rest: bytes) -> str:
    """Return the policy words at the start of what follows the address."""
    text = rest.decode("ascii", "replace")
    for mode in sorted(_MODES, key=len, reverse=True):
        if text.startswith(mode):
            return mode + text[len(mode) :].split(" ", 1)[0]
    return DEFAULT


def build_policy(policy: str) -> tuple[int, Blob | int, int]:
    """Return mode with flags, node mask and its number of bits + 1, for mbind and set_mempolicy.

    Raises:
        PlanError: the words are not those of a policy.
    """
    head, _, nodes = policy.partition(":")
    mode, _, flags = head.partition("=")
    try:
        number = _MODES[mode]
        for flag in flags.split("|") if flags else ():
            number |= _FLAGS[flag]
        mask = _parse_nodes(nodes)
    except (KeyError, ValueError) as error:
        raise PlanError(f"not a memory policy: {policy!r}") from error
    if not mask:
        return number, 0, 0
    return number, Blob(mask.to_bytes(_MAX_NODES // 8, "little")), _MAX_NODES + 1


def _parse_nodes(text: str) -> int:
    mask = 0
    for part in text.split(",") if text else ():
        low, _, high = part.partition("-")
        if not 0 <= int(low) <= int(high or low) < _MAX_NODES:
            raise ValueError(part)
        for node in range(int(low), int(high or low) + 1):
            mask |= 1 << node
    return mask


def build_mbind(start: int, length: int, policy: str) -> Call:
    """Return the call that gives an area its policy."""
    mode, mask, bits = build_policy(policy)
    return Call(SYS_MBIND, (start, length, mode, mask, bits, 0))
