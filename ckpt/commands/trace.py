"""`ckpt-bpf trace`: what the kernel does with a process, as it happens."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NoReturn, TextIO

from ckpt.commands.common import seconds, to_json
from ckpt.errors import CkptError, InterruptError

if TYPE_CHECKING:
    from ckpt.debug.perfetto import PerfettoFile
    from ckpt.debug.report import Reporter
    from ckpt.debug.trace import Lost
    from ckpt.debug.trace_events import AnyEvent
    from ckpt.debug.trace_text import Summary
    from ckpt.host.bpf_trace import Trace, TraceOptions

DESCRIPTION: Final = (
    "Print events of a process as they happen, each with its time since the trace began: fork, "
    "exec, exit; armed (a call was interrupted and left a restart_block), restart "
    "(restart_syscall, told when it sets its timer again or else with its result, and its "
    "result), eintr (a call returns EINTR to the program); signal (delivered, and by whom it was "
    "sent), altstack (a handler starts on the alternate stack); robust (a thread ends and leaves "
    "a robust futex); futex (a wait longer than --slow). Nothing is stopped. The trace ends with "
    "the process, or with Ctrl-C, and closes with a summary. A command is run from its very "
    "beginning, and its exit status is ours."
)
_DEFAULT_SLOW_S: Final = 1.0


def _kinds(text: str) -> tuple[str, ...]:
    from ckpt.host.bpf_trace import KINDS

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        known = ", ".join(KINDS)
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {known}")
    return names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument(
        "target", nargs="+", metavar="PID|-- COMMAND", help="a process, or a command to run"
    )
    parser.add_argument(
        "--events", type=_kinds, metavar="LIST", help="only these, with commas (all but futex)"
    )
    parser.add_argument("--children", action="store_true", help="processes that it makes as well")
    parser.add_argument(
        "--slow", type=seconds, metavar="S", help="show futex waits longer than S seconds"
    )
    parser.add_argument("--perfetto", metavar="FILE", help="write a trace for ui.perfetto.dev")
    parser.add_argument("-o", "--output", metavar="FILE", help="print into FILE, not to stdout")


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Run the command; return its exit code, or end as the traced command did."""
    from ckpt.debug.trace import find_process
    from ckpt.host.bpf_trace import Trace

    options = _options(args)
    if len(args.target) > 1 or not args.target[0].isdecimal():
        status = _trace_command(args, options, report)
        return 0 if status is None else _end_like(status)
    pid = find_process(int(args.target[0]))
    with ExitStack() as stack:
        printer = stack.enter_context(_Printer(args, pid))
        trace = stack.enter_context(Trace(pid, options))
        printer.follow(trace, pid, report)
    return 0


def _options(args: argparse.Namespace) -> TraceOptions:
    from ckpt.host.bpf_trace import DEFAULT_KINDS, TraceOptions

    kinds = args.events or DEFAULT_KINDS
    if args.slow is not None and "futex" not in kinds:
        kinds = (*kinds, "futex")
    return TraceOptions(kinds, args.children, args.slow or _DEFAULT_SLOW_S)


def _trace_command(args: argparse.Namespace, options: TraceOptions, report: Reporter) -> int | None:
    """Run a command under the trace; return its wait status, None if we were told to end first.

    Ctrl-C is the command's business.
    """
    from ckpt.debug.trace import abandon, release, start_command
    from ckpt.host.bpf_trace import Trace

    sys.stdout.flush()
    command = start_command(args.target)
    with ExitStack() as stack:
        try:
            printer = stack.enter_context(_Printer(args, command.pid))
            trace = stack.enter_context(Trace(command.pid, options))
        except BaseException:
            abandon(command)
            raise
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        release(command, args.target)
        if not printer.follow(trace, command.pid, report):
            return None
    return os.waitpid(command.pid, 0)[1]


def _end_like(status: int) -> NoReturn:
    from ckpt.host.terminal import end_like

    sys.stdout.flush()
    end_like(status)


class _Printer:
    """Where events go. A context manager: entering opens the files, before anything starts."""

    def __init__(self, args: argparse.Namespace, pid: int) -> None:
        self._args = args
        self._pid = pid
        self._stream: TextIO = sys.stdout
        self._perfetto: PerfettoFile | None = None
        self._stack = ExitStack()
        self._began_ns = time.monotonic_ns()

    def __enter__(self) -> _Printer:
        from ckpt.debug.trace_text import Summary

        self._summary: Summary = Summary()
        with ExitStack() as opened:
            if self._args.output:
                self._stream = opened.enter_context(_open_output(self._args.output))
            if self._args.perfetto:
                from ckpt.debug.perfetto import PerfettoFile

                file = PerfettoFile(self._args.perfetto, self._began_ns, self._pid)
                self._perfetto = opened.enter_context(file)
            self._stack = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def follow(self, trace: Trace, pid: int, report: Reporter) -> bool:
        """Print until the process has ended (True), or until we are told to end (False)."""
        from ckpt.debug.trace import follow
        from ckpt.host.watch import held

        report.note(f"trace of process {pid}: {', '.join(trace.options.kinds)}")
        self._began_ns = trace.began_ns
        has_ended = False
        try:
            with held():
                for event in follow(trace, pid):
                    self._print(event)
            has_ended = True
        except InterruptError:
            pass  # That is how a trace is ended.
        finally:
            self._finish(trace)
        return has_ended

    def _print(self, event: AnyEvent | Lost) -> None:
        from ckpt.debug.trace import Lost
        from ckpt.debug.trace_events import to_json as event_json
        from ckpt.debug.trace_text import event_line

        if isinstance(event, Lost):
            text = f"*** {event.count} events were lost: more came than could be written"
            line = to_json({"event": "lost", "count": event.count}) if self._args.json else text
        else:
            self._summary.add(event)
            if self._perfetto is not None:
                self._perfetto.add(event)
            line = event_json(event) if self._args.json else event_line(event, self._began_ns)
        self._stream.write(line + "\n")
        self._stream.flush()

    def _finish(self, trace: Trace) -> None:
        """Print the summary."""
        lasted_s = (time.monotonic_ns() - self._began_ns) / 1e9
        counts = lasted_s, trace.lost, trace.unwatched
        if self._args.json:
            self._stream.write(to_json(self._summary.plain(*counts)) + "\n")
        else:
            for line in self._summary.lines(*counts):
                self._stream.write(f"{line}\n")
        self._stream.flush()


def _open_output(path: str) -> TextIO:
    try:
        return open(path, "w")
    except OSError as error:
        raise CkptError("cannot be written", where=path, errno=error.errno) from error
