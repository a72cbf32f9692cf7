#!/usr/bin/env python3
"""Soak: the demo server under load of which 1 % panics. Memory and descriptors must stay flat.

    tests/clients/.venv/bin/python tests/soak/panics.py [--seconds 120] [--workers 32]

Needs httpx with HTTP/2, which `tests/clients/run` installs there. Starts the demo server (DEMO_BIN, or a release build),
drives it over HTTP/1.1 (raw, keep-alive) and HTTP/2 (httpx, all streams on one connection), reads every answer to its end,
and samples the server's /proc. Exit 1 when an answer is not what it must be, the server died, memory grew by more than 5 %
from the second quarter to the last, or descriptors are left.
"""

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
HOW = ["panic-handler", "panic-body", "panic-drop", "producer-panic"]
FORMAT = ["sse", "ndjson", "bytes", "json"]


def target(failing: float) -> tuple[str, str]:
    """A path, and what kind of request it is."""
    if random.random() < failing:
        how, form = random.choice(HOW), random.choice(FORMAT)
        return f"/fail?how={how}&format={form}&after=3&interval_ms=0", f"{how} {form}"
    return "/events?count=20&interval_ms=0", "whole"


def wanted(kind: str) -> set[str]:
    """How an answer of this kind may end."""
    how, _, form = kind.partition(" ")
    if how == "whole":
        return {"whole"}
    if how == "panic-handler":
        return {"500"}
    return {"record"} if form in ("sse", "ndjson") else {"cut"}


def verdict(status: int, body: bytes, cut: bool) -> str:
    if cut:
        return "cut"
    if status != 200:
        return str(status)
    return "record" if b'{"error":{"kind":"panic"' in body else "whole"


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status, body, and whether it was cut."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    status = int(lines[0].split()[1])
    length = [int(line.split(":")[1]) for line in lines if line.startswith("content-length:")]
    if length:
        return status, await reader.readexactly(length[0]), False
    body = b""
    try:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    except asyncio.IncompleteReadError:
        return status, body, True
    return status, body, False


class Load:
    def __init__(self, port: int, failing: float) -> None:
        self.port, self.failing = port, failing
        self.counts: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.over = False

    def note(self, kind: str, got: str) -> None:
        self.counts[kind.split()[0]] += 1
        if got not in wanted(kind):
            self.wrong[f"{kind}: {got}"] += 1

    async def http1(self) -> None:
        writer = None
        while not self.over:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            path, kind = target(self.failing)
            writer.write(f"GET {path} HTTP/1.1\r\nhost: soak\r\n\r\n".encode())
            try:
                status, body, cut = await read_answer(reader)
                self.note(kind, verdict(status, body, cut))
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                self.note(kind, type(error).__name__)
                cut = True
            if cut:
                writer.close()
                writer = None
        if writer:
            writer.close()

    async def http2(self, client: httpx.AsyncClient) -> None:
        while not self.over:
            path, kind = target(self.failing)
            try:
                response = await client.get(f"http://127.0.0.1:{self.port}{path}")
                self.note(kind, verdict(response.status_code, response.content, False))
            except httpx.RemoteProtocolError as error:
                reset = "INTERNAL_ERROR" in str(error) or "error_code:2" in str(error)
                self.note(kind, "cut" if reset else str(error))


def sample(pid: int) -> tuple[int, int]:
    """Resident KiB, and open descriptors."""
    status = Path(f"/proc/{pid}/status").read_text()
    rss = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(rss.split()[1]), len(os.listdir(f"/proc/{pid}/fd"))


async def soak(server: subprocess.Popen, port: int, arguments: argparse.Namespace) -> bool:
    load = Load(port, arguments.failing)
    idle = sample(server.pid)
    client = httpx.AsyncClient(http1=False, http2=True, timeout=20)
    workers = [load.http1() for _ in range(arguments.workers)]
    workers += [load.http2(client) for _ in range(arguments.workers)]
    running = asyncio.gather(*workers)
    samples, start = [], time.monotonic()
    while (elapsed := time.monotonic() - start) < arguments.seconds and server.poll() is None:
        await asyncio.sleep(1)
        samples.append(sample(server.pid))
        if len(samples) % 10 == 0:
            print(f"{elapsed:5.0f} s  {samples[-1][0]:7} KiB  {samples[-1][1]:4} descriptors  {sum(load.counts.values())} answers", flush=True)
    load.over = True
    await running
    await client.aclose()
    await asyncio.sleep(2)
    alive = server.poll() is None
    left = sample(server.pid) if alive else (0, 0)
    quarter = max(len(samples) // 4, 1)
    early = statistics.median(rss for rss, _ in samples[quarter : 2 * quarter])
    late = statistics.median(rss for rss, _ in samples[-quarter:])
    failing = sum(count for kind, count in load.counts.items() if kind != "whole")
    print(f"{sum(load.counts.values())} answers, {failing} of them failed on purpose: {dict(load.counts)}")
    print(f"memory: {early:.0f} KiB in the second quarter, {late:.0f} KiB in the last ({(late / early - 1) * 100:+.1f} %)")
    print(f"descriptors: {idle[1]} before, {max(fds for _, fds in samples)} at most, {left[1]} after")
    print(f"answers that are not what they must be: {dict(load.wrong) or 'none'}")
    return alive and not load.wrong and late <= early * 1.05 and left[1] <= idle[1] + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--workers", type=int, default=32, help="HTTP/1.1 connections, and HTTP/2 streams")
    parser.add_argument("--failing", type=float, default=0.01, help="share of requests that panic")
    arguments = parser.parse_args()
    binary = os.environ.get("DEMO_BIN")
    if not binary:
        subprocess.run(["cargo", "build", "--quiet", "--release", "-p", "demo-server"], cwd=ROOT, check=True)
        binary = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/demo-server"
    command = [str(binary), "--public", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "RUST_LOG": "off"})
    try:
        port = int(server.stdout.readline().split("public=")[1].split()[0].rsplit(":", 1)[1])
        good = asyncio.run(soak(server, port, arguments))
    finally:
        server.terminate()
        server.wait()
    print("flat" if good else "NOT FLAT")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
