"""`ckpt-bpf show`: look at an image: its records, its memory, its threads, its descriptors.

Which options go together: one view of `--memory`, `--maps`, `--threads`, `--fds`, `--tree`,
`--section`; `--grep` with any of them but `--memory`; `--hex`, `--disasm`, `--string` with
`--memory` only, one of them; `--json` with all of them.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.debug.report import Reporter
    from ckpt.debug.show_blocks import Block
    from ckpt.image.reader import ImageFile

_BATCH: Final = 256
_FORMATS: Final = ("hex", "disasm", "string")


class _Section(argparse.Action):
    """Stores the name; its help lists all names, which are looked up only when it is shown."""

    def __call__(self, _parser: Any, namespace: argparse.Namespace, value: Any, *_: Any) -> None:
        setattr(namespace, self.dest, value)

    @property
    def help(self) -> str:
        """The line of help."""
        from ckpt.debug.show import section_names

        return f"only records of one kind: {', '.join(section_names())}"

    @help.setter
    def help(self, _text: str | None) -> None:
        """argparse sets what it was not given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("image", metavar="FILE", help="image, - for stdin")
    view = parser.add_mutually_exclusive_group()
    view.add_argument("--section", metavar="NAME", action=_Section)
    view.add_argument("--maps", action="store_true", help="areas, and what of them is stored")
    view.add_argument(
        "--threads",
        action="store_true",
        help="registers, backtraces, the code around rip, signals, robust lists",
    )
    view.add_argument("--fds", action="store_true", help="descriptors, and who shares them")
    view.add_argument("--tree", action="store_true", help="processes and threads")
    view.add_argument(
        "--memory",
        metavar="ADDR[:LEN]",
        type=_range,
        help="bytes at an address or symbol (main, libc.so.6:environ, main+0x10); 256 without LEN",
    )
    parser.add_argument(
        "--grep",
        metavar="TEXT",
        help="only lines with TEXT, and the head lines of the records they are of",
    )
    parser.set_defaults(fail=parser.error)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--hex", action="store_true", help="memory as xxd shows it (the default)")
    shown.add_argument("--disasm", action="store_true", help="memory as instructions")
    shown.add_argument("--string", action="store_true", help="memory as a C string")


def _range(text: str) -> Any:
    from ckpt.debug.show_place import parse_range

    try:
        return parse_range(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace, _report: Reporter) -> int:
    """Run the command; return its exit code."""
    from ckpt.restore import open_image

    _check(args)
    with open_image(args.image) as image:
        if args.memory is not None:
            _show_memory(args, image)
        elif args.json:
            for part in _json_parts(args, image):
                sys.stdout.write(part)
            print()
        else:
            _print_lines(args, image)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Exit with 2 for options that do not go together."""
    given = [name for name in _FORMATS if getattr(args, name)]
    if given and args.memory is None:
        args.fail(f"--{given[0]} needs --memory")
    if args.memory is not None and args.grep is not None:
        args.fail("--grep does not go with --memory")
    if args.grep == "":
        args.fail("--grep needs a text")
    if args.section is not None:
        from ckpt.debug.show import section_names
        from ckpt.debug.text import escape

        if args.section not in section_names():
            names = ", ".join(section_names())
            args.fail(
                f"--section: no records are called {escape(args.section)!r}; there are: {names}"
            )


def _view_of(args: argparse.Namespace) -> str:
    return next((name for name in ("maps", "threads", "fds", "tree") if getattr(args, name)), "")


def _blocks(args: argparse.Namespace, image: ImageFile) -> Iterator[Block]:
    """Return the blocks of the view that was asked for, the ones that `--grep` lets through."""
    from ckpt.debug.show_blocks import grep_blocks

    blocks = _view_blocks(_view_of(args), args.section or "", image)
    return blocks if args.grep is None else grep_blocks(blocks, args.grep)


def _view_blocks(view: str, section: str, image: ImageFile) -> Iterator[Block]:
    from ckpt.objects.base import Records

    records = Records(image.records)
    if view == "maps":
        from ckpt.debug.show_maps import map_blocks

        return map_blocks(image, records)
    if view == "threads":
        from ckpt.debug.show_threads import thread_blocks

        return thread_blocks(image, records)
    if view == "fds":
        from ckpt.debug.show_fds import fd_blocks

        return fd_blocks(records)
    if view == "tree":
        from ckpt.debug.show_tree import tree_blocks

        return tree_blocks(image, records)
    from ckpt.debug.show import record_blocks

    return record_blocks(image, section)


def _print_lines(args: argparse.Namespace, image: ImageFile) -> None:
    from ckpt.debug.show_blocks import block_lines

    if not _print_all(block_lines(_blocks(args, image))):
        print("ckpt-bpf: nothing to show", file=sys.stderr)


def _print_all(lines: Iterable[str]) -> int:
    """Print lines as they come, many at a time; return how many there were."""
    count, rest = 0, iter(lines)
    while batch := list(islice(rest, _BATCH)):
        sys.stdout.write("\n".join(batch) + "\n")
        count += len(batch)
    return count


def _json_parts(args: argparse.Namespace, image: ImageFile) -> Iterable[str]:
    from ckpt.debug.show import json_parts
    from ckpt.debug.show_blocks import json_object

    view = _view_of(args)
    if not view and args.section is None and args.grep is None:
        return json_parts(image)
    name = {"": "records", "tree": "processes"}.get(view, view)
    plain = (block.plain for block in _blocks(args, image))
    return json_object({"path": image.path}, name, plain)


def _show_memory(args: argparse.Namespace, image: ImageFile) -> None:
    from ckpt.debug import show_memory
    from ckpt.debug.show_place import find_spot
    from ckpt.debug.symbols import AddressSpace
    from ckpt.objects.base import Records

    with AddressSpace(image, Records(image.records)) as space:
        spot = find_spot(space, args.memory)
        if args.json:
            for part in _memory_json(args, space, spot):
                sys.stdout.write(part)
            print()
            return
        if args.string:
            print(show_memory.string_line(space, spot))
            return
        lines = show_memory.disasm_lines if args.disasm else show_memory.hex_lines
        print(show_memory.head_line(space, spot))
        _print_all(lines(space, spot))


def _memory_json(args: argparse.Namespace, space: Any, spot: Any) -> Iterable[str]:
    from ckpt.debug import show_memory
    from ckpt.debug.show_blocks import json_object

    head = {"address": spot.start, "end": spot.end, "place": space.locate(spot.start)}
    if args.string:
        head["string"] = show_memory.string_line(space, spot)
    if args.disasm:
        return json_object(head, "code", show_memory.plain_code(space, spot))
    return json_object(head, "pieces", show_memory.plain_pieces(space, spot))
