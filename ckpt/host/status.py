"""The lines of /proc/PID/status as text."""

from __future__ import annotations


def read_status(pid: int) -> dict[str, str]:
    """Return the value of every line by its name.

    Raises:
        FileNotFoundError, ProcessLookupError: there is no such task.
    """
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="backslashreplace") as file:
        pairs = (line.partition(":") for line in file)
        return {name: value.strip() for name, _, value in pairs}
