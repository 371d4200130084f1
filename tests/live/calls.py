"""Make the calls of a plan in a forked child of ours, without seed, tape or image."""

from __future__ import annotations

import ctypes
import json
import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from ckpt.objects.steps import Blob, Call, Expect, Scratch

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class CallMismatch(Exception):
    """A call did not return what the plan had said."""


def _address(arg: Blob | Scratch, made: dict[int, Any]) -> int:
    if id(arg) not in made:
        content = arg.content if isinstance(arg, Blob) else bytes(arg.size_bytes)
        made[id(arg)] = ctypes.create_string_buffer(content, max(len(content), 1))
        for offset, target in arg.pointers if isinstance(arg, Blob) else ():
            where = ctypes.addressof(made[id(arg)]) + offset
            ctypes.c_uint64.from_address(where).value = _address(target, made)
    return ctypes.addressof(made[id(arg)])


def make_calls(calls: Sequence[Call]) -> None:
    """Make the calls in this very thread.

    Raises:
        CallMismatch: the result is not the expected one.
    """
    for call in calls:
        made: dict[int, Any] = {}
        words = [arg if isinstance(arg, int) else _address(arg, made) for arg in call.args]
        words += [0] * (6 - len(words))
        result = int(_libc.syscall(call.nr, *(ctypes.c_ulong(word) for word in words)))
        if result == -1:
            result = -ctypes.get_errno()
        if call.expect is Expect.EXACT and result != call.value:
            raise CallMismatch(f"{call}: {result}")


def in_child(work: Callable[[], Any]) -> Any:
    """Return what `work` returns (as JSON) in a forked child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = {"result": work()}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = json.loads(pipe.read() or b'{"error": "the child died"}')
    os.waitpid(pid, 0)
    assert "error" not in answer, answer["error"]
    return answer["result"]
