"""Staying with a restored process as its parent: foreground, signals, stops, and its end.

What a shell does for its jobs, for the one process that `restore` without --detach waits for:
1. If the child leads a process group of its own in our session, and we have the terminal's
   foreground, the child's group gets it: Ctrl-C, Ctrl-Z, SIGWINCH and input then reach it directly.
2. A signal that reaches us is passed on. One that the terminal sent (si_code SI_KERNEL) went to all
   of the foreground group: a child that shares our group has it already and gets no second one.
3. A child that stops gives the terminal back, and our own job stops with it, so that the shell sees
   what the user did. When the shell continues us, the child gets the foreground (if we have it) and
   SIGCONT. A background child that stops for input is only given the foreground, if we got it.
4. A child that ends gives the terminal back; `end_like` then ends us in the same way.

Without a controlling terminal there is no job control: signals are passed on, stops are not ours.
If we are killed, the child keeps running, and the shell takes the terminal back as it always does.
Owns no printing and no policy about when to stay.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
from typing import TYPE_CHECKING, Final, NoReturn, Self

if TYPE_CHECKING:
    from types import TracebackType

_WALL: Final = 0x40000000
"""__WALL: children of every kind (include/uapi/linux/wait.h)."""
_SI_KERNEL: Final = 0x80
"""include/uapi/asm-generic/siginfo.h"""

PASSED_ON: Final = frozenset(
    (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGTSTP,
        signal.SIGCONT,
        signal.SIGWINCH,
        signal.SIGUSR1,
        signal.SIGUSR2,
    )
)
_WAITED_FOR: Final = PASSED_ON | {signal.SIGCHLD}
_GROUP_SIGNAL_S: Final = 0.1
_INPUT_STOPS: Final = frozenset((signal.SIGTTIN, signal.SIGTTOU))


class Attendant:
    """Attends one child, from before it first runs until it ends.

    Use as a context manager. Entering blocks the signals that are passed on (none is lost, none
    kills us with the child left behind), and hands the foreground over; the child may run from then
    on. Leaving takes the foreground back and restores our signal mask. Only the main thread may
    wait for signals this way.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._tty = -1
        self._child_group = 0
        self._old_mask: set[int] = set()
        self._old_chld: object = signal.SIG_DFL

    def __enter__(self) -> Self:
        self._old_mask = {int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)}
        # A SIGCHLD that is ignored would let the kernel reap the child behind our back.
        self._old_chld = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._tty = _open_terminal()
        self.hand_over()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._take_back()
        if self._tty >= 0:
            os.close(self._tty)
            self._tty = -1
        signal.signal(signal.SIGCHLD, self._old_chld or signal.SIG_DFL)  # type: ignore[arg-type]
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)

    def hand_over(self) -> bool:
        """Give the child's group the foreground if it is ours to give; tell whether it has it."""
        try:
            group, session = os.getpgid(self.pid), os.getsid(self.pid)
        except ProcessLookupError:
            return False
        self._child_group = group
        if group == os.getpgrp():
            return True
        if session != os.getsid(0) or not self._is_foreground():
            return False
        return self._set_foreground(group)

    def wait(self) -> int:
        """Attend the child until it ends and return its wait status.

        Raises:
            ChildProcessError: it is not our child, or somebody else has waited for it.
        """
        while True:
            while (change := self._next_change()) is not None:
                if not os.WIFSTOPPED(change) and not os.WIFCONTINUED(change):
                    return change
                if os.WIFSTOPPED(change):
                    self._child_stopped(os.WSTOPSIG(change))
            info = signal.sigwaitinfo(_WAITED_FOR)
            if info.si_signo != signal.SIGCHLD:
                self._pass_on(info)

    def _next_change(self) -> int | None:
        options = os.WNOHANG | os.WUNTRACED | os.WCONTINUED | _WALL
        pid, status = os.waitpid(self.pid, options)
        return status if pid else None

    def _shares_our_group(self) -> bool:
        return os.getpgid(self.pid) == os.getpgrp()

    def _pass_on(self, info: signal.struct_siginfo) -> None:
        """Pass a signal on: to all of the child's group if the terminal meant a group."""
        from_terminal = info.si_code == _SI_KERNEL
        try:
            if not from_terminal:
                os.kill(self.pid, info.si_signo)
            elif not self._shares_our_group():
                os.killpg(os.getpgid(self.pid), info.si_signo)
        except ProcessLookupError:
            pass  # It has ended; the next wait says so.
        if info.si_signo == signal.SIGCONT:
            self.hand_over()

    def _child_stopped(self, signo: int) -> None:
        """Stop with the child, and go on with it when our own parent lets us."""
        if self._tty < 0:
            return
        if signo in _INPUT_STOPS and self._is_foreground() and not self._shares_our_group():
            self._continue_child()
            return
        self._take_back()
        if self._stop_ourselves() or signo != signal.SIGSTOP:
            self._continue_child()

    def _stop_ourselves(self) -> bool:
        """Stop, and the rest of our job with us; tell whether that happened.

        In an orphaned group, where nobody could continue us, the kernel ignores SIGTSTP. Then a
        stop of the terminal's is undone, as if it had been ignored too, and a SIGSTOP stays.
        """
        signal.sigtimedwait({signal.SIGCONT}, 0)
        old = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        if self._shares_our_group():
            os.kill(os.getpid(), signal.SIGTSTP)
        else:
            os.killpg(0, signal.SIGTSTP)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
        # Here we have been stopped and continued. That SIGCONT is not passed on a second time.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
        signal.signal(signal.SIGTSTP, old or signal.SIG_DFL)
        return signal.sigtimedwait({signal.SIGCONT}, 0) is not None

    def _continue_child(self) -> None:
        self.hand_over()
        try:
            if not self._shares_our_group():
                os.killpg(os.getpgid(self.pid), signal.SIGCONT)
            elif not self._was_continued():
                os.kill(self.pid, signal.SIGCONT)
        except ProcessLookupError:
            pass  # It was killed while it was stopped; the next wait says so.

    def _was_continued(self) -> bool:
        """Tell whether whoever continued us meant our group: the child then goes on by itself.

        Its SIGCONT may come a moment after ours. A second one would run its handler twice, and
        undo a stop that the user has asked for since: the stop before is no longer reported, so
        one that is reported is a new one, of a child that went on in between.
        """
        what = os.WCONTINUED | os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL
        deadline = time.monotonic() + _GROUP_SIGNAL_S
        while os.waitid(os.P_PID, self.pid, what) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            signal.sigtimedwait({signal.SIGCHLD}, left)
        return True

    def _take_back(self) -> None:
        """Give our own group the foreground if the child's still has it."""
        if self._child_group and self._foreground() == self._child_group != os.getpgrp():
            self._set_foreground(os.getpgrp())

    def _is_foreground(self) -> bool:
        return self._foreground() == os.getpgrp()

    def _foreground(self) -> int:
        """Return the terminal's foreground group, 0 when there is no terminal (any more)."""
        if self._tty < 0:
            return 0
        try:
            return os.tcgetpgrp(self._tty)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EIO):
                return 0
            raise

    def _set_foreground(self, group: int) -> bool:
        """Set the foreground group, also from the background: that needs SIGTTOU blocked."""
        old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            os.tcsetpgrp(self._tty, group)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTTY, errno.EIO, errno.ESRCH):
                raise
            return False  # The group is gone, or the terminal is.
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
        return True


def _open_terminal() -> int:
    """Open our controlling terminal; -1 when there is none."""
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT, errno.EIO):
            return -1
        raise


def exit_code(status: int) -> int:
    """Return what a shell would say of a wait status: the exit code, or 128 plus the signal."""
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def end_like(status: int) -> NoReturn:
    """End this process as the wait status says: same exit code, or killed by the same signal.

    A shell that waits for us then knows of Ctrl-C what it must (and stops its script). Leaves no
    core dump: the process that crashed has left its own. Flush output first.
    """
    if os.WIFSIGNALED(status):
        signo = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if signo != signal.SIGKILL:
            signal.signal(signo, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signo})
        os.kill(os.getpid(), signo)
    os._exit(exit_code(status))
