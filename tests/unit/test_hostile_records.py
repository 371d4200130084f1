"""Numbers that no kernel has do not decode: plans need not defend themselves against them."""

from typing import Any

import msgspec
import pytest

from ckpt.objects.creds import CredsRecord
from ckpt.objects.limits import LimitsRecord
from ckpt.objects.sched import SchedRecord
from ckpt.objects.timens import TimensRecord

CREDENTIALS = {"uids": [0, 0, 0, 0], "gids": [0, 0, 0, 0], "groups": [1], "permitted": 2**41 - 1}
CREDS = {"t": "creds", "tgid": 1, "tids": [1], "securebits": None, "label": ""}
SCHED = {"t": "sched", "tgid": 1, "tids": [1], "timer_slack_ns": 1}
TIMENS = {"t": "timens", "tgid": 1, "is_initial": True, "boottime_offset_ns": 0}


def decode(kind: type, fields: dict[str, Any]) -> object:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=kind)


@pytest.mark.parametrize(
    "fields", [{"uids": [0, 0, 0, 2**32]}, {"groups": [-1]}, {"permitted": -1}, {"extra": 1}]
)
def test_credentials(fields: dict[str, Any]) -> None:
    assert decode(CredsRecord, {**CREDS, "credentials": CREDENTIALS})
    with pytest.raises(msgspec.ValidationError):
        decode(CredsRecord, {**CREDS, "credentials": {**CREDENTIALS, **fields}})


def test_limits_are_sixteen() -> None:
    pairs = [[1, 2**64 - 1]] * 16
    assert decode(LimitsRecord, {"t": "limits", "tgid": 1, "limits": pairs})
    for bad in (pairs[1:], [*pairs, [1, 2]], [[-1, 2]] * 16):
        with pytest.raises(msgspec.ValidationError):
            decode(LimitsRecord, {"t": "limits", "tgid": 1, "limits": bad})


@pytest.mark.parametrize("cpus", ["", "g", "-1", "f" * 2049, "0x3"])
def test_masks_are_hexadecimal(cpus: str) -> None:
    assert decode(SchedRecord, {**SCHED, "scheduling": {"nice": -20}, "cpus": "ff"})
    with pytest.raises(msgspec.ValidationError):
        decode(SchedRecord, {**SCHED, "scheduling": {}, "cpus": cpus})


def test_offsets_fit_the_kernel() -> None:
    assert decode(TimensRecord, {**TIMENS, "monotonic_offset_ns": -5})
    with pytest.raises(msgspec.ValidationError):
        decode(TimensRecord, {**TIMENS, "monotonic_offset_ns": 2**63})
