"""What the man page says that no parser knows: sections around those of the commands.

Paragraphs are plain text; `man_page` sets options in bold and placeholders in italics. In a list, a
pair is (what it is about, what is said of it).
"""

from typing import Final

NAME: Final = "checkpoint, restore and inspect running processes"
DATE: Final = "2026-11-21"

DESCRIPTION: Final = (
    "ckpt-bpf takes a running Linux process apart into one file, its image, and puts it together "
    "again, so that neither the process nor anyone who talks to it can tell. What the kernel "
    "tells nobody (the deadline of a blocked call, restart blocks, alternate signal stacks, who "
    "shares what) it reads with BPF, registers with ptrace, the rest from /proc. No code and no "
    "memory is added to the process to look at it.",
    "The same records serve a person who debugs: images can be shown, compared, and written as "
    "core files; a live process can be looked at and followed without being stopped.",
    "Snapshots and restores need root, x86_64, and a kernel with BTF. A command says what it "
    "lacks, and what can be seen without it.",
)

EXIT: Final = (
    ("0", "Done."),
    (
        "1",
        "Refused or failed; the reason is on standard error, with everything that stands in the "
        "way and what to do about it. A failed snapshot leaves the process running as before and "
        "no file under the final name; a failed restore leaves nothing.",
    ),
    ("2", "Wrong usage."),
)
EXIT_END: Final = (
    "restore without --detach, --dry-run and --stop-at ends as the restored process does: with its "
    "exit status, or by the signal that ended it.",
)

FILES: Final = (
    ("PID.ckpt", "The image of process PID, in the current folder, mode 0600."),
    (
        "/var/cache/ckpt-bpf",
        "Compiled BPF programs, for root. It can be removed at any time; other users have theirs "
        "below $XDG_CACHE_HOME, else ~/.cache.",
    ),
    (
        "/sys/kernel/btf/vmlinux",
        "The types of the running kernel. BPF programs are compiled against them; kernel headers "
        "are not needed.",
    ),
)

ENVIRONMENT: Final = (
    (
        "TMPDIR",
        "Where an image that comes from, or goes to, a pipe is kept meanwhile, without a name; "
        "/var/tmp if it is not set.",
    ),
    ("XDG_CACHE_HOME", "Where compiled BPF programs of users other than root are kept."),
    ("SUDO_UID", "Whose images root trusts beside its own: see SECURITY."),
    ("COLUMNS", "How wide help is."),
)

SECURITY: Final = (
    "Restoring an image runs a program with the credentials that the image names: treat images "
    "like setuid programs. An image that is owned neither by root nor by the invoking user, or "
    "that others can write, is restored only with --trust-image. The other commands are safe on "
    "any file: what they print is escaped, what they read is bounded.",
)

EXAMPLES: Final = (
    ("ckpt-bpf snapshot 4711", "Write 4711.ckpt and end the process."),
    ("ckpt-bpf snapshot 4711 --leave-running -o before.ckpt", "Let it run on."),
    ("ckpt-bpf restore 4711.ckpt", "Go on with it on this terminal, under its pid."),
    (
        "ckpt-bpf restore 4711.ckpt --dry-run | less",
        "Read every step and every system call that a restore would make.",
    ),
    (
        "ckpt-bpf restore 4711.ckpt --stop-at create-threads",
        "Build it up to before that step; then gdb -p 4711 looks at it, and kill -9 4711 ends it.",
    ),
    ("ckpt-bpf show 4711.ckpt", "Print every record of the image."),
    ("ckpt-bpf check", "What this kernel and this user can do, and what is missing."),
)

SEE_ALSO: Final = (
    "bpf(2)",
    "clone3(2)",
    "core(5)",
    "gdb(1)",
    "namespaces(7)",
    "proc(5)",
    "ptrace(2)",
    "restart_syscall(2)",
    "strace(1)",
)
