"""Everything that the program can make use of, each found by trying it, with its effect.

A try either returns (maybe with a remark) or raises; what could leave a trace is tried in a forked
child that exits. `check_features` of `ckpt.host.probe` is the way in.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Feature(NamedTuple):
    """One thing that this kernel and this user can do, or not."""

    name: str
    ok: bool
    effect: str
    """What is lost without it."""
    remedy: str
    """How to get it."""
    detail: str = ""
    """Why it is not there, or what was found."""


class Trial(NamedTuple):
    """How to find out about one feature."""

    name: str
    attempt: Callable[[], object]
    """Raises OSError (or another error) when it is not there; a returned str is the detail."""
    effect: str
    remedy: str
    in_child: bool = False


def try_all() -> list[Feature]:
    """Try every feature that is known, in groups: BPF, ptrace, tasks, memory, privileges."""
    from ckpt.host import try_bpf, try_memory, try_rights, try_tasks

    modules = (try_bpf, try_tasks, try_memory, try_rights)
    return [feature for module in modules for feature in run_trials(module.trials())]


def run_trials(trials: Iterable[Trial]) -> list[Feature]:
    """Carry out trials one after the other."""
    return [run_trial(trial) for trial in trials]


def run_trial(trial: Trial) -> Feature:
    """Carry out one trial; whatever it raises says that the feature is not there."""
    try:
        found = in_child(trial.attempt) if trial.in_child else trial.attempt()
    except (OSError, ImportError, ValueError, LookupError) as error:
        return Feature(trial.name, False, trial.effect, trial.remedy, describe_error(error))
    return Feature(trial.name, True, trial.effect, trial.remedy, str(found or ""))


def describe_error(error: Exception) -> str:
    """Return the reason in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def in_child(attempt: Callable[[], object]) -> object:
    """Carry `attempt` out in a forked child, and raise here what it raised there.

    Raises:
        OSError: what the attempt failed with, or ECHILD when a signal ended the child.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _attempt_and_exit(attempt, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read().decode("utf-8", "replace")
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        raise ChildProcessError(f"the attempt was ended by {name}")
    number, _, text = answer.partition(" ")
    if int(number):
        raise OSError(int(number), text)
    return text


def _attempt_and_exit(attempt: Callable[[], object], writer: int) -> None:
    """Answer with an errno and a text, and never return into our caller's copy."""
    answer = "22 the attempt could not be made"
    try:
        answer = f"0 {attempt() or ''}"
    except OSError as error:
        answer = f"{error.errno or 22} {describe_error(error)}"
    except (ImportError, ValueError, LookupError) as error:
        answer = f"22 {describe_error(error)}"
    finally:
        os.write(writer, answer.encode("utf-8", "replace"))
        os._exit(0)


class Sleeper:
    """A forked child that does nothing, for trials on another task; gone at the end."""

    def __enter__(self) -> int:
        self.pid = os.fork()
        if self.pid == 0:
            try:
                while True:
                    signal.pause()
            finally:
                os._exit(0)
        return self.pid

    def __exit__(self, *exc: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
