"""Threads, asyncio timers and one long SQLite transaction, all of which log what they do.

Written for a test that snapshots it anywhere in the middle: each part writes lines that show a
gap, a repeat or a wrong value. Ends when a file named `finish` appears.
"""

import asyncio
import hashlib
import os
import queue
import sqlite3
import threading
import time

WORKERS = 4
TICK_S = 0.01


def log(*words: object) -> None:
    """Write one line, whole."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def work(name: str, jobs: "queue.Queue[int | None]") -> None:
    """Chain hashes over the jobs, so that one lost or repeated job changes all that follow."""
    digest = b""
    count = 0
    while (job := jobs.get()) is not None:
        digest = hashlib.sha256(digest + str(job).encode()).digest()
        count += 1
    log("worker", name, count, digest.hex())


async def tick(jobs: "list[queue.Queue[int | None]]", rows: sqlite3.Connection) -> None:
    """Sleep, count, hand out work, and add a row to the open transaction."""
    count = 0
    previous = time.monotonic()
    while not os.path.exists("finish"):
        await asyncio.sleep(TICK_S)
        now = time.monotonic()
        jobs[count % WORKERS].put(count)
        rows.execute("INSERT INTO ticks VALUES (?, ?)", (count, count * count))
        log("tick", count, f"{now - previous:.6f}")
        previous = now
        count += 1


async def main_loop(jobs: "list[queue.Queue[int | None]]", rows: sqlite3.Connection) -> None:
    """Run the ticker beside a long timer that is often pending, and a cross-thread wake-up."""
    loop = asyncio.get_running_loop()
    timers = 0

    def again() -> None:
        nonlocal timers
        timers += 1
        loop.call_later(0.25, again)

    loop.call_soon(again)
    await asyncio.gather(tick(jobs, rows), asyncio.to_thread(time.sleep, 0.5))
    log("timers", timers)


def main() -> None:
    """Run everything, commit, and check the database as the last act."""
    rows = sqlite3.connect("ticks.db", isolation_level=None)
    rows.execute("CREATE TABLE ticks (n INTEGER PRIMARY KEY, square INTEGER)")
    rows.execute("BEGIN IMMEDIATE")
    jobs: list[queue.Queue[int | None]] = [queue.Queue() for _ in range(WORKERS)]
    threads = [threading.Thread(target=work, args=(str(i), j)) for i, j in enumerate(jobs)]
    for thread in threads:
        thread.start()
    asyncio.run(main_loop(jobs, rows))
    for job_queue in jobs:
        job_queue.put(None)
    for thread in threads:
        thread.join()
    rows.execute("COMMIT")
    log("integrity", rows.execute("PRAGMA integrity_check").fetchone()[0])
    log("DONE")


if __name__ == "__main__":
    main()
