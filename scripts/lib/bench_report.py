"""The figures of scripts/bench as a table: ours, CRIU's, a straight line through three sizes."""

from typing import Any, NamedTuple

from bench_trace import Overhead

MIB = 1 << 20
MAX_SMALL_WALL_S = 0.15
MAX_COPY_RATIO = 1.3
MAX_PEAK_BYTES = 100 * MIB


class Measured(NamedTuple):
    """What one case came to; medians of its rounds, the peak being the highest of all."""

    kind: str
    number: int
    stall_s: float
    snapshot_s: float
    kill_snapshot_s: float
    restore_s: float
    snapshot_cpu_s: float
    restore_cpu_s: float
    peak_bytes: int
    image_bytes: int
    copy_s: float | None

    @property
    def name(self) -> str:
        """The case as it is called in the table."""
        unit = {"small": "small process", "memory": f"{self.number} MiB"}
        return unit.get(self.kind, f"{self.number:,} {self.kind}")


class Criu(NamedTuple):
    """CRIU 4.2 on such a machine, in seconds."""

    stall_s: float
    snapshot_s: float
    restore_s: float


CRIU = {
    ("small", 0): Criu(0.008, 0.06, 0.06),
    ("memory", 64): Criu(0.036, 0.09, 0.11),
    ("threads", 1000): Criu(0.53, 0.63, 0.32),
    ("areas", 20000): Criu(0.24, 0.33, 0.16),
    ("descriptors", 10000): Criu(0.40, 0.43, 0.14),
}


class Verdict(NamedTuple):
    """One figure that has to be reached."""

    what: str
    value: float
    limit: float

    @property
    def reached(self) -> bool:
        """Whether the figure is within its limit."""
        return self.value <= self.limit

    def __str__(self) -> str:
        word = "reached" if self.reached else "MISSED "
        return f"{word}  {self.what}: {self.value:.3g} (at most {self.limit:g})"


class Line(NamedTuple):
    """Cost as fixed part plus cost per item, fitted by least squares."""

    what: str
    fixed_s: float
    per_item_s: float

    def __str__(self) -> str:
        return f"{self.what:28} {self.fixed_s * 1e3:8.1f} ms + {self.per_item_s * 1e6:7.2f} us each"


def fit(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Return (fixed, slope) of the straight line nearest to the points."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return mean_y - slope * mean_x, slope


def build_lines(measured: list[Measured]) -> list[Line]:
    """Fit stall, snapshot and restore of every kind that was measured at three sizes."""
    lines = []
    for kind in ("threads", "areas", "descriptors"):
        cases = [m for m in measured if m.kind == kind]
        if len(cases) < 3:
            continue
        for figure in ("stall_s", "snapshot_s", "restore_s"):
            points = [(m.number, getattr(m, figure)) for m in cases]
            lines.append(Line(f"{kind} {figure.removesuffix('_s')}", *fit(points)))
    return lines


def build_verdicts(measured: list[Measured], overheads: list[Overhead]) -> list[Verdict]:
    """Compare every case with what has to be reached."""
    verdicts = []
    for m in measured:
        if criu := CRIU.get((m.kind, m.number)):
            verdicts.append(Verdict(f"{m.name}: stall in s, CRIU's", m.stall_s, criu.stall_s))
        if m.kind == "small":
            verdicts.append(Verdict(f"{m.name}: snapshot in s", m.snapshot_s, MAX_SMALL_WALL_S))
        if m.copy_s:
            ratio = m.snapshot_s / m.copy_s
            verdicts.append(Verdict(f"{m.name}: snapshot / cp and fsync", ratio, MAX_COPY_RATIO))
        # Every second area of the areas case holds a page of its own: an extent.
        extents = m.number // 2 if m.kind == "areas" else m.number if m.kind == "threads" else 0
        limit = (MAX_PEAK_BYTES + 64 * extents) / MIB
        verdicts.append(Verdict(f"{m.name}: peak memory in MiB", m.peak_bytes / MIB, limit))
    for o in overheads:
        if o.case.limit is not None:
            verdicts.append(Verdict(f"{o.case.name}: traced / untraced", o.ratio, o.case.limit))
    return verdicts


def summarize(measured: list[Measured], overheads: list[Overhead]) -> dict[str, Any]:
    """Return everything as plain values for JSON."""
    return {
        "cases": [m._asdict() for m in measured],
        "lines": [line._asdict() for line in build_lines(measured)],
        "traces": [{**o._asdict(), "case": o.case._asdict()} for o in overheads],
        "verdicts": [
            {**v._asdict(), "reached": v.reached} for v in build_verdicts(measured, overheads)
        ],
    }


def print_report(measured: list[Measured], overheads: list[Overhead], failures: list[str]) -> None:
    """Print the table, the lines, the verdicts and what could not be measured."""
    print(
        f"{'':20}{'stall':>9}{'snapshot':>10}{'restore':>9}{'peak':>9}{'image':>11}  CPU of both",
        end="",
    )
    print("   CRIU 4.2: stall / snapshot / restore; cp and fsync")
    small_s = next((m.snapshot_s for m in measured if m.kind == "small"), None)
    for m in measured:
        print(f"{m.name:20}{m.stall_s:7.3f} s{m.snapshot_s:8.3f} s{m.restore_s:7.3f} s", end="")
        print(f"{m.peak_bytes / MIB:5.0f} MiB{m.image_bytes / MIB:7.1f} MiB", end="")
        print(f"{m.snapshot_cpu_s:7.3f} {m.restore_cpu_s:.3f}   ", end="")
        criu = CRIU.get((m.kind, m.number))
        print(" / ".join(f"{value:.3f}" for value in criu) if criu else "-", end="")
        if m.copy_s:
            print(f"; cp {m.copy_s:.3f} s, ratio {m.snapshot_s / m.copy_s:.2f}", end="")
            if small_s:
                net_s = m.snapshot_s - small_s
                print(f" ({net_s / m.copy_s:.2f} beyond a small process)", end="")
        print()
    for title, rows in (
        ("fixed cost and cost of one more", build_lines(measured)),
        ("a process that is traced, beside itself untraced", overheads),
        ("to reach", build_verdicts(measured, overheads)),
        ("could not be measured", failures),
    ):
        if rows:
            print(f"\n{title}:", *rows, sep="\n  ")
