"""Completion scripts for bash, zsh and fish, from the definitions of the command line.

Each knows the commands, their options, and what a value is (`definitions.Word.kind`). They run
nothing of ours: pids come from /proc, images are files that end in `.ckpt`.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from ckpt.commands.definitions import all_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckpt.commands.definitions import Command, Word

_BASH_HEAD: Final = """\
# bash completion of ckpt-bpf, made by `ckpt-bpf completion bash`.

# What a command has: its options, those of them with a value, what its arguments are.
_ckpt_bpf_of() {
	case $1 in
"""
_BASH_TAIL: Final = """\
	esac
}

# The kind of the value of option $2 of command $1.
_ckpt_bpf_value() {
	case $1:$2 in
%(values)s	esac
}

_ckpt_bpf_fill() {
	case $1 in
	pid) mapfile -t COMPREPLY < <(compgen -W "$(cd /proc && printf '%%s ' [0-9]*)" -- "$2") ;;
	image)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -X '!*.ckpt' -- "$2"; compgen -d -- "$2")
		;;
	file)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$2")
		;;
	command) mapfile -t COMPREPLY < <(compgen -c -- "$2") ;;
	words:*) mapfile -t COMPREPLY < <(compgen -W "${1#words:}" -- "$2") ;;
	esac
}

_ckpt_bpf() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local command= options= takes= places=() place=0 behind=-1 at kind word
	COMPREPLY=()
	# --log=FILE is three words to bash.
	[ "$cur" != = ] || cur=
	[ "$prev" != = ] || prev=${COMP_WORDS[COMP_CWORD - 2]}
	for ((at = 1; at < COMP_CWORD; at++)); do
		word=${COMP_WORDS[at]}
		if [ -z "$command" ]; then
			[[ $word == -* ]] && continue
			command=$word
			_ckpt_bpf_of "$command"
		elif ((behind >= 0)); then
			((++behind))
		elif [ "$word" = -- ]; then
			behind=0
		elif [[ $word == = || ${COMP_WORDS[at - 1]} == = ]]; then
			continue
		elif [[ $takes == *" ${COMP_WORDS[at - 1]} "* ]]; then
			continue
		elif [[ $word != -?* ]]; then
			((++place))
		fi
	done
	if [ -z "$command" ]; then
		_ckpt_bpf_of ''
		[[ $cur == -* ]] || options=
		_ckpt_bpf_fill "words:$options %(commands)s" "$cur"
		return
	fi
	# Behind -- stands a command of its own, in the commands that run one.
	if [[ $behind -ge 0 && " ${places[*]} " == *' command '* ]]; then
		kind=file
		((behind > 0)) || kind=command
		_ckpt_bpf_fill "$kind" "$cur"
		return
	fi
	kind=$(_ckpt_bpf_value "$command" "$prev")
	if [ -n "$kind" ]; then
		_ckpt_bpf_fill "$kind" "$cur"
	elif [[ $cur == -* ]]; then
		_ckpt_bpf_fill "words:$options" "$cur"
	elif ((place < ${#places[@]})); then
		_ckpt_bpf_fill "${places[place]}" "$cur"
	elif ((${#places[@]} > 0)) && [ "${places[-1]}" = command ]; then
		_ckpt_bpf_fill file "$cur"
	fi
}

complete -F _ckpt_bpf ckpt-bpf
"""


def build_bash(options: Sequence[Word], commands: Sequence[Command]) -> str:
    """Return the script for bash (4.4 or newer)."""
    rows = [_bash_row("''", options, ()), *(_bash_command(command) for command in commands)]
    values = [
        f"\t{'|'.join(f'{command.name}:{flag}' for flag in word.flags)})"
        f" echo {_bash_kind(word)} ;;\n"
        for command in commands
        for word in command.options
        if word.kind != "none"
    ]
    names = " ".join(command.name for command in commands)
    tail = _BASH_TAIL % {"values": "".join(values), "commands": names}
    return f"{_BASH_HEAD}{''.join(rows)}{tail}"


def _bash_command(command: Command) -> str:
    return _bash_row(command.name, command.options, command.places)


def _bash_row(name: str, options: Sequence[Word], places: Sequence[Word]) -> str:
    taking = " ".join(all_flags([word for word in options if word.kind != "none"]))
    kinds = " ".join(_bash_kind(word) for word in places)
    return (
        f"\t{name})\n"
        f"\t\toptions='{' '.join(all_flags(options))}'\n"
        f"\t\ttakes=' {taking} '\n"
        f"\t\tplaces=({kinds})\n"
        "\t\t;;\n"
    )


def _bash_kind(word: Word) -> str:
    if word.kind == "choice":
        return shlex.quote(f"words:{' '.join(word.choices)}")
    return word.kind


_ZSH_HEAD: Final = """\
#compdef ckpt-bpf
# zsh completion of ckpt-bpf, made by `ckpt-bpf completion zsh`.

_ckpt-bpf() {
	local curcontext=$curcontext state line
	local -A opt_args
	local -a commands=(
"""
_ZSH_TAIL: Final = """\
		esac
		;;
	esac
}

if [[ ${funcstack[1]} = _ckpt-bpf ]]; then
	_ckpt-bpf "$@"
else
	compdef _ckpt-bpf ckpt-bpf
fi
"""
_ZSH_KINDS: Final = {
    "pid": "_pids",
    "image": '_files -g "*.ckpt(-.)"',
    "file": "_files",
    "command": "_command_names -e",
    "number": "",
    "text": "",
}


def build_zsh(options: Sequence[Word], commands: Sequence[Command]) -> str:
    """Return the script for zsh: a function to be autoloaded, or sourced."""
    parts = [_ZSH_HEAD]
    parts += [f"\t\t{shlex.quote(f'{command.name}:{command.summary}')}\n" for command in commands]
    parts.append("\t)\n\t_arguments -C \\\n")
    parts += [f"\t\t{spec} \\\n" for word in options for spec in _zsh_option(word)]
    parts.append("\t\t'1:command:->command' '*::argument:->argument'\n")
    parts.append("\tcase $state in\n\tcommand) _describe command commands ;;\n")
    parts.append("\targument)\n\t\tcase $words[1] in\n")
    for command in commands:
        specs = [spec for word in command.options for spec in _zsh_option(word)]
        specs += [_zsh_place(word) for word in command.places]
        shown = " \\\n\t\t\t\t".join(specs)
        parts.append(f"\t\t{command.name})\n\t\t\t_arguments \\\n\t\t\t\t{shown}\n\t\t\t;;\n")
    parts.append(_ZSH_TAIL)
    return "".join(parts)


def _zsh_option(word: Word) -> Iterator[str]:
    """Yield a spec for each of an option's names, which exclude each other."""
    value = "" if word.kind == "none" else f":{_zsh_text(word.metavar)}:{_zsh_action(word)}"
    others = f"({' '.join(word.flags)})" if len(word.flags) > 1 else ""
    for flag in word.flags:
        yield shlex.quote(f"{others}{flag}[{_zsh_text(word.help)}]{value}")


def _zsh_place(word: Word) -> str:
    if word.kind == "command":
        return "'*::command:_normal'"
    star = "*" if word.many else ""
    return shlex.quote(f"{star}:{_zsh_text(word.metavar)}:{_zsh_action(word)}")


def _zsh_action(word: Word) -> str:
    if word.kind == "choice":
        return f"({' '.join(word.choices)})"
    return _ZSH_KINDS[word.kind]


def _zsh_text(text: str) -> str:
    for char in "\\[]:":
        text = text.replace(char, f"\\{char}")
    return " ".join(text.split())


_FISH_HEAD: Final = """\
# fish completion of ckpt-bpf, made by `ckpt-bpf completion fish`.
complete -c ckpt-bpf -f
"""
_FISH_KINDS: Final = {
    "pid": "-x -a '(__fish_complete_pids)'",
    "image": "-k -x -a '(__fish_complete_suffix .ckpt)'",
    "file": "-r -F",
    "command": "-x -a '(__fish_complete_subcommand)'",
    "number": "-x",
    "text": "-x",
}


def build_fish(options: Sequence[Word], commands: Sequence[Command]) -> str:
    """Return the script for fish."""
    none = "-n __fish_use_subcommand"
    lines = [_fish_option(none, word) for word in options]
    for command in commands:
        summary = _fish_quote(command.summary)
        lines.append(f"complete -c ckpt-bpf {none} -a {command.name} -d {summary}")
        seen = f"-n '__fish_seen_subcommand_from {command.name}'"
        lines += [_fish_option(seen, word) for word in command.options]
        lines += [f"complete -c ckpt-bpf {seen} {_fish_kind(word)}" for word in command.places]
    return _FISH_HEAD + "".join(f"{line}\n" for line in lines)


def _fish_option(when: str, word: Word) -> str:
    names = [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in word.flags]
    value = "" if word.kind == "none" else f" {_fish_kind(word)}"
    return f"complete -c ckpt-bpf {when} {' '.join(names)}{value} -d {_fish_quote(word.help)}"


def _fish_kind(word: Word) -> str:
    if word.kind == "choice":
        return f"-x -a {_fish_quote(' '.join(word.choices))}"
    return _FISH_KINDS[word.kind]


def _fish_quote(text: str) -> str:
    """fish knows two escapes inside single quotes: of the quote, and of the backslash."""
    safe = " ".join(text.split()).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{safe}'"


SCRIPTS: Final[dict[str, Callable[[Sequence[Word], Sequence[Command]], str]]] = {
    "bash": build_bash,
    "zsh": build_zsh,
    "fish": build_fish,
}
