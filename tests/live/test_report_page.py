"""`ckpt-bpf report` of real processes, looked at in a browser: laid out, and nothing is run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ckpt.restore import open_image
from tests.live.harness import Build, Case, Mode, Target

LARGE = ("1000", "20000", "9900")
"""Threads, areas, descriptors."""
WIDTH = 1280
BROWSER = "chromium"
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
LOOK = """
<script>{
const box = (selector) => [...document.querySelectorAll(selector)].map((one) => {
	const at = one.getBoundingClientRect();
	return [at.width, at.height, at.left, at.right];
});
const blocks = document.querySelectorAll(".block");
blocks[0].dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
const about = document.getElementById("about").textContent;
const entry = document.querySelector(".legend li");
entry.click();
const facts = {
	title: document.title,
	scripts: document.scripts.length,
	images: document.images.length,
	overflow: document.documentElement.scrollWidth - window.innerWidth,
	sections: box("section"), headings: box("h2"), blocks: box(".block"), bars: box(".bar"),
	dim: document.querySelectorAll(".block.off").length,
	alike: document.querySelectorAll(`.block[data-kind=${entry.dataset.kind}]`).length,
	about: about, first: blocks[0].title,
	fills: [...blocks].map((one) => one.style.getPropertyValue("--fill")),
	ties: box(".ties li"),
	chips: [...document.querySelectorAll("td .fd")].map((one) => one.textContent),
	broken: [...document.querySelectorAll("a[href^='#']")]
		.map((one) => one.getAttribute("href").slice(1))
		.filter((id) => !document.getElementById(id)),
};
const out = document.createElement("pre");
out.id = "facts";
out.textContent = JSON.stringify(facts);
document.body.append(out);
}</script>
"""


class Report(NamedTuple):
    """One process: its image, and the page made of it."""

    image: Path
    page: Path
    pid: int


@pytest.fixture(scope="module")
def browser() -> str:
    path = shutil.which(BROWSER)
    if path is None:
        pytest.skip(f"{BROWSER} is not installed")
    return path


@pytest.fixture(scope="module", params=[(), LARGE], ids=["small", "large"])
def report(
    request: pytest.FixtureRequest, build: Build, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Report]:
    """A process that runs on, its image and its page."""
    folder = tmp_path_factory.mktemp("report")
    with Target(Case("report_page", request.param), build) as target:
        target.start()
        if not target.wait_ready():
            pytest.fail(target.wait_result().text)
        target.snapshot("--leave-running")
        image, page = folder / "image.ckpt", folder / "page.html"
        shutil.copyfile(target.image, image)
        target.tool("report", str(image), "-o", str(page))
        target.go(Mode.LEFT_RUNNING)
        outcome = target.wait_result()
        assert outcome.verdict == "PASS", outcome.text
        yield Report(image, page, target.pid)


def browse(browser: str, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page without a screen; console messages go to stderr."""
    return subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000"),
            *(f"--window-size={WIDTH},2000", f"--user-data-dir={page.parent / 'profile'}"),
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )


def console(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_timings_of_the_freeze_are_in_the_image(report: Report) -> None:
    with open_image(str(report.image)) as image:
        timings = image.timings
    assert timings is not None
    names = [phase.name for phase in timings.frozen]
    assert names[0] == "stop" and names[-1] == "let go"
    assert {"observe", "task", "areas", "files"} <= set(names)
    assert ("pages", "areas") in {(phase.name, phase.inside) for phase in timings.frozen}
    parts = {phase.inside: phase.ns for phase in timings.frozen if phase.inside}
    whole = {phase.name: phase.ns for phase in timings.frozen}
    assert all(parts[name] <= whole[name] for name in parts)
    before = [phase.name for phase in timings.before]
    assert before[:3] == ["examine", "load BPF programs", "survey"]


def test_the_page_is_laid_out(browser: str, report: Report) -> None:
    """In a copy that a script of ours looks at: the page itself would not run it."""
    text = report.page.read_text()
    assert len(text) < 1_000_000
    copy = report.page.with_name("looked-at.html")
    changed = POLICY.sub("", text).replace("</body>", f"{LOOK}</body>")
    assert changed.count("<script>") == 2
    copy.write_text(changed)
    done = browse(browser, copy, "--dump-dom")
    assert not console(done)
    found = re.search(r'<pre id="facts">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr
    facts: dict[str, Any] = json.loads(
        found[1].replace("&lt;", "<").replace("&amp;", "&").replace("&gt;", ">")
    )
    assert facts["title"].startswith("<script>evil")
    assert (facts["scripts"], facts["images"]) == (2, 0)
    assert facts["overflow"] <= 0
    assert len(facts["sections"]) == 6 and len(facts["headings"]) == 6
    assert all(width > 900 and height > 60 for width, height, *_ in facts["sections"])
    assert 15 < len(facts["blocks"]) < 260
    assert all(width >= 7 and height > 30 for width, height, *_ in facts["blocks"])
    assert all(left >= 0 and right <= WIDTH for *_, left, right in facts["blocks"])
    # Three tebibytes do not hide the rest.
    assert max(width for width, *_ in facts["blocks"]) < WIDTH / 3
    assert {"0%", "0.00%"} & set(facts["fills"]) and len(set(facts["fills"])) > 4
    assert facts["about"] == facts["first"]
    assert facts["dim"] == len(facts["blocks"]) - facts["alike"] > 0
    assert len(facts["ties"]) == 3
    assert all(width > 100 for width, *_ in facts["bars"]) and len(facts["bars"]) == 3
    assert {"0", "1", "2"} <= set(facts["chips"])
    assert not facts["broken"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_as_it_is(browser: str, report: Report, scheme: str) -> None:
    """Not blank, in the colours that the reader prefers; no complaint, and only our script ran."""
    picture = report.page.with_name(f"{scheme}.png")
    setting = "1" if scheme == "light" else "0"
    done = browse(
        browser,
        report.page,
        "--dump-dom",
        f"--screenshot={picture}",
        f"--blink-settings=preferredColorScheme={setting}",
    )
    assert not console(done), done.stderr
    assert "owned" not in re.findall(r"<title>(.*?)</title>", done.stdout)[0]
    assert done.stdout.count("<script>") == 1
    assert 'class="js"' in done.stdout
    width, rows = read_png(picture)
    assert width == WIDTH
    corner = rows[0][1:4]
    assert min(corner) > 200 if scheme == "light" else max(corner) < 60
    # A blank page has no such line; here text and bars are in a good part of them.
    varied = sum(len(set(row)) > 8 for row in rows)
    assert varied > len(rows) / 4


def read_png(path: Path) -> tuple[int, list[bytes]]:
    """Return the width, and the lines as they are filtered: enough to tell whether they differ."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    depth, kind = data[24], data[25]
    assert depth == 8 and kind in (2, 6)
    at, packed = 8, b""
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += length + 12
    raw = zlib.decompress(packed)
    line = len(raw) // height
    return width, [raw[i * line : (i + 1) * line] for i in range(height)]
