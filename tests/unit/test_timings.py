"""The timings frame: what was written is read, an image without it opens, a bad one is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from ckpt.errors import ImageError
from ckpt.image.format import FrameFlag, FrameType, encode_frame
from ckpt.image.reader import open_image_file
from ckpt.image.timings import MAX_TIMINGS_BYTES, Phase, Stopwatch, Timings, encode_timings
from ckpt.image.writer import ImageWriter
from tests.unit.test_image_samples import HEADER, TYPES, Task, write_image

if TYPE_CHECKING:
    from pathlib import Path

TIMINGS = Timings(
    before=[Phase("survey", 40_000_000)],
    frozen=[Phase("stop", 500_000), Phase("areas", 900_000), Phase("pages", 300_000, "areas")],
)


def write(path: Path, *payloads: bytes, flags: int = FrameFlag.OPTIONAL) -> None:
    """Write an image with a timings frame for each payload."""
    with ImageWriter.create(str(path)) as writer:
        writer.write_header(HEADER)
        writer.write_records([Task(tid=1)])
        for payload in payloads:
            frame = encode_frame(FrameType.TIMINGS, payload, flags)
            writer._append(frame, FrameType.TIMINGS)
        writer.commit()


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with ImageWriter.create(str(path)) as writer:
        writer.write_header(HEADER)
        writer.write_timings(TIMINGS)
        writer.commit()
    with open_image_file(str(path), TYPES) as image:
        assert image.timings == TIMINGS
        assert [row.name for row in image.iter_frames()] == [
            *("header", "padding", "timings", "tail")
        ]


def test_an_image_without_timings_opens(tmp_path: Path) -> None:
    write_image(tmp_path / "image", [Task(tid=1)])
    with open_image_file(str(tmp_path / "image"), TYPES) as image:
        assert image.timings is None


@pytest.mark.parametrize(
    "payloads",
    [
        (b"\x93", b""),
        (encode_timings(TIMINGS), encode_timings(TIMINGS)),
        (bytes(MAX_TIMINGS_BYTES + 1),),
        (msgspec.msgpack.encode({"before": [], "frozen": [], "more": 1}),),
        (msgspec.msgpack.encode({"before": [], "frozen": [["stop", -1]]}),),
        (msgspec.msgpack.encode({"before": [], "frozen": [["a", 1]] * 513}),),
    ],
    ids=["no-msgpack", "twice", "too-long", "unknown-field", "negative", "too-many"],
)
def test_bad_timings_are_refused(tmp_path: Path, payloads: tuple[bytes, ...]) -> None:
    write(tmp_path / "image", *payloads)
    with pytest.raises(ImageError, match="timings"):
        open_image_file(str(tmp_path / "image"), TYPES)


def test_timings_that_are_not_optional_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "image", encode_timings(TIMINGS), flags=0)
    with pytest.raises(ImageError, match="not optional"):
        open_image_file(str(tmp_path / "image"), TYPES)


def test_stopwatch_tells_pages_apart() -> None:
    class Pages:
        copy_ns = 0

    laps = Stopwatch()
    laps.lap("survey")
    pages = Pages()
    laps.pages = pages  # type: ignore[assignment]
    laps.freeze("last look", laps._last_ns + 5)
    laps.lap("stop")
    pages.copy_ns = 7
    laps.lap("areas")
    laps.lap("files")
    timings = laps.timings()
    assert [phase.name for phase in timings.before] == ["survey", "last look"]
    assert timings.before[1].ns == 5
    assert [(phase.name, phase.inside) for phase in timings.frozen] == [
        ("stop", ""),
        ("areas", ""),
        ("pages", "areas"),
        ("files", ""),
    ]
    assert timings.frozen[2].ns == 7
