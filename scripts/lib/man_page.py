"""Write ckpt-bpf(8) from the command line's own definitions. Usage: man_page.py [--check FILE].

Prints roff (man macros) on standard output; with --check, compares it with FILE instead.
"""

import difflib
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import man_text

from ckpt.commands.definitions import Command, Word, read_definitions
from ckpt.commands.parser import VERSION

_OPTION = re.compile(r"(?<![\w-])(--?[A-Za-z][\w-]*)")
_PLACE = re.compile(r"(?<![\w-])([A-Z]+(?:\|[A-Z]+)*(?:\[:[A-Z]+\])?)(?![\w-])")


def escape(text: str) -> str:
    """Return text for roff: backslashes, dashes and quotes as they are typed."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = text.replace("'", "\\(aq").replace("`", "\\(ga").replace("^", "\\(ha")
    return text.replace("~", "\\(ti")


def prose(text: str) -> str:
    """Return one paragraph in lines of at most 80 bytes: the options that it names in bold."""
    parts = _OPTION.split(" ".join(text.split()))
    shown = [
        f"\\fB{escape(part)}\\fR" if at % 2 else escape_words(part) for at, part in enumerate(parts)
    ]
    return wrap("".join(shown))


def escape_words(text: str) -> str:
    """Return plain words; hyphens inside of words stay hyphens."""
    return re.sub(r"(?<=[a-z])\\-(?=[a-z])", "-", escape(text))


def wrap(text: str) -> str:
    """Break a long line between words; a dot or quote that comes to begin one is no request."""
    lines = textwrap.wrap(text, 78, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in lines)


def synopsis(text: str) -> str:
    """Return a usage line: what is typed in bold, what stands for something in italics."""
    text = escape(text)
    text = re.sub(r"(?<![\w\\-])((?:\\-){1,2}[A-Za-z][\w\\-]*)", r"\\fB\1\\fR", text)
    return wrap(_PLACE.sub(r"\\fI\1\\fR", text))


def section(title: str) -> Iterator[str]:
    """Yield the head of a section."""
    yield f".SH {title}"


def paragraphs(texts: Iterable[str]) -> Iterator[str]:
    """Yield paragraphs of prose."""
    for at, text in enumerate(texts):
        if at:
            yield ".PP"
        yield prose(text)


def listed(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a list of things and what is said of them."""
    for head, text in pairs:
        yield ".TP"
        yield f"\\fB{escape(head)}\\fR"
        yield prose(text)


def describe_word(word: Word) -> Iterator[str]:
    """Yield the entry of one option or argument."""
    value = f" \\fI{escape(word.metavar)}\\fR" if word.metavar else ""
    yield ".TP"
    if word.flags:
        yield ", ".join(f"\\fB{escape(flag)}\\fR" for flag in word.flags) + value
    else:
        yield value.strip()
    text = word.help or _WITHOUT_HELP.get(word.kind, word.metavar.lower())
    yield prose(text[:1].upper() + text[1:].rstrip(".") + ".")


_WITHOUT_HELP = {"pid": "the process", "file": "the file"}


def describe_command(command: Command) -> Iterator[str]:
    """Yield the subsection of one command."""
    yield f".SS {escape(command.name)}"
    yield from usage(command)
    yield ".PP"
    text = command.description
    yield prose(text[:1].upper() + text[1:].rstrip(".") + ".")
    for word in (*command.places, *command.options):
        if word.flags[:1] != ("-h",) and word.flags not in _COMMON:
            yield from describe_word(word)
    if command.epilog:
        yield ".PP"
        yield prose(command.epilog)


def usage(command: Command) -> Iterator[str]:
    """Yield how a command is called."""
    yield f"\\fBckpt\\-bpf {escape(command.name)}\\fR"
    yield synopsis(_arguments(command))


_COMMON = (("--log",), ("--json",), ("-v", "--verbose"))


def _arguments(command: Command) -> str:
    """Return the usage line without the program, the command, and what every command has."""
    text = command.usage.removeprefix(f"ckpt-bpf {command.name}")
    for common in ("[-h]", "[--log FILE]", "[--json]", "[-v]"):
        text = text.replace(f" {common}", "", 1)
    return text.strip()


def build_page() -> str:
    """Return the whole page."""
    options, commands = read_definitions()
    common = [word for word in commands[0].options if word.flags in _COMMON]
    lines = [
        "\\# Made by scripts/man from the command line's own definitions: do not edit.",
        f'.TH CKPT\\-BPF 8 "{man_text.DATE}" "ckpt\\-bpf {VERSION}" "System Administration"',
        # Options are not hyphenated, lines not stretched.
        ".nh",
        ".ad l",
        *section("NAME"),
        f"ckpt\\-bpf \\- {wrap(escape(man_text.NAME))}",
        *section("SYNOPSIS"),
    ]
    for at, command in enumerate(commands):
        lines += [".br"] if at else []
        lines += usage(command)
    lines += [*section("DESCRIPTION"), *paragraphs(man_text.DESCRIPTION)]
    lines += [*section("OPTIONS"), prose("Of ckpt-bpf itself:")]
    lines += [line for word in options for line in describe_word(word)]
    lines += [".PP", "Of every command:"]
    lines += [line for word in common for line in describe_word(word)]
    lines += section("COMMANDS")
    lines += [line for command in commands for line in describe_command(command)]
    lines += [*section('"EXIT STATUS"'), *listed(man_text.EXIT)]
    lines += [".PP", *paragraphs(man_text.EXIT_END)]
    lines += [*section("ENVIRONMENT"), *listed(man_text.ENVIRONMENT)]
    lines += [*section("FILES"), *listed(man_text.FILES)]
    lines += [*section("EXAMPLES"), *listed(man_text.EXAMPLES)]
    lines += [*section("SECURITY"), *paragraphs(man_text.SECURITY)]
    lines += [*section('"SEE ALSO"'), ",\n".join(map(_reference, man_text.SEE_ALSO))]
    return "\n".join(lines) + "\n"


def _reference(text: str) -> str:
    name, _, number = text.partition("(")
    return f"\\fB{escape(name)}\\fR({number}"


def main(arguments: list[str]) -> int:
    """Print the page, or compare it with a file."""
    page = build_page()
    if arguments[:1] != ["--check"]:
        sys.stdout.write(page)
        return 0
    old = Path(arguments[1]).read_text()
    sys.stderr.writelines(difflib.unified_diff(old.splitlines(True), page.splitlines(True)))
    return int(old != page)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
