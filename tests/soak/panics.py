#!/usr/bin/env python3
"""Soak: the demo server under load while many of its streams panic. Memory and descriptors must stay flat.

    tests/soak/panics.py [--seconds 120] [--streams 32] [--panics 50]

Starts the demo server (DEMO_BIN, or a release build) and drives it with stream-load (STREAM_LOAD, or a release build) over
HTTP/1.1 with keep-alive and over HTTP/2: whole streams as fast as they go, and each way of panicking in each format at a
steady rate. Every stream is read to its end; meanwhile the server's /proc is sampled. Exit 1 when a stream ended otherwise
than it must, the server died, memory grew by more than 5 % from the second quarter to the last, or descriptors are left.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOW = ["panic-handler", "panic-body", "panic-drop", "producer-panic"]
FORMAT = ["sse", "ndjson", "bytes", "json"]


class Load:
    """A stream-load that runs, and how each of its streams must end."""

    def __init__(self, program: str, url: str, http: str, ending: str, seconds: int, *options: str) -> None:
        self.name, self.http, self.ending = f"HTTP/{http} {url.partition('?')[2]}", http, ending
        common = ["--http", http, "--keep-alive", "--duration", f"{seconds}s", "--grace", "20s", "-o", "json"]
        command = [program, url, *common, "--no-progress", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def report(self) -> tuple[int, list[str]]:
        """How many streams there were, and what was wrong."""
        report = json.loads(self.process.communicate()[0])
        endings = {ending: count for ending, count in report["endings"].items() if count}
        wrong = [f"{self.name}: {endings}"] if set(endings) != {self.ending} else []
        for reason in report["reasons"]:
            # the server's doing, and not a connection that was lost
            if self.http == "2" and reason["ending"] == "cut" and "internal error" not in reason["reason"]:
                wrong.append(f"{self.name}: {reason}")
        return report["streams"], wrong


def ending(how: str, form: str) -> str:
    """How a stream that panics must end."""
    if how == "panic-handler":
        return "status_5xx"
    if how == "panic-drop":
        return "whole"  # the body was over when it was dropped
    return "in_band_error" if form in ("sse", "ndjson") else "cut"


def start_loads(program: str, address: str, arguments: argparse.Namespace) -> tuple[list[Load], list[Load]]:
    whole, failing = [], []
    kinds = list(itertools.product(HOW, FORMAT))
    rate = str(arguments.panics / len(kinds) / 2)
    for http in "1", "2":
        url = f"http://{address}/events?count=20&interval_ms=0"
        options = ["-n", str(arguments.streams), "--expect-records", "20"]
        whole.append(Load(program, url, http, "whole", arguments.seconds, *options))
        for how, form in kinds:
            url = f"http://{address}/fail?how={how}&format={form}&after=3&interval_ms=0"
            failing.append(Load(program, url, http, ending(how, form), arguments.seconds, "-n", "4", "--rate", rate))
    return whole, failing


def sample(pid: int) -> tuple[int, int]:
    """Resident KiB, and open descriptors."""
    status = Path(f"/proc/{pid}/status").read_text()
    rss = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(rss.split()[1]), len(os.listdir(f"/proc/{pid}/fd"))


def soak(server: subprocess.Popen, program: str, address: str, arguments: argparse.Namespace) -> bool:
    idle = sample(server.pid)
    whole, failing = start_loads(program, address, arguments)
    samples, start = [], time.monotonic()
    while (elapsed := time.monotonic() - start) < arguments.seconds and server.poll() is None:
        time.sleep(1)
        samples.append(sample(server.pid))
        if len(samples) % 10 == 0:
            print(f"{elapsed:5.0f} s  {samples[-1][0]:7} KiB  {samples[-1][1]:4} descriptors", flush=True)
    counts, wrong = {"whole": 0, "failed on purpose": 0}, []
    for name, loads in zip(counts, (whole, failing)):
        for load in loads:
            streams, found = load.report()
            counts[name] += streams
            wrong += found
    time.sleep(2)
    alive = server.poll() is None
    left = sample(server.pid) if alive else (0, 0)
    quarter = max(len(samples) // 4, 1)
    early = statistics.median(rss for rss, _ in samples[quarter : 2 * quarter])
    late = statistics.median(rss for rss, _ in samples[-quarter:])
    print(f"streams: {counts}")
    print(f"memory: {early:.0f} KiB in the second quarter, {late:.0f} KiB in the last ({(late / early - 1) * 100:+.1f} %)")
    print(f"descriptors: {idle[1]} before, {max(fds for _, fds in samples)} at most, {left[1]} after")
    print("streams that did not end as they must:", *(wrong or ["none"]), sep="\n  ")
    return alive and all(counts.values()) and not wrong and late <= early * 1.05 and left[1] <= idle[1] + 1


def binary(variable: str, package: str) -> str:
    if path := os.environ.get(variable):
        return path
    subprocess.run(["cargo", "build", "--quiet", "--release", "-p", package], cwd=ROOT, check=True)
    return str(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / package)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--streams", type=int, default=32, help="whole streams at a time, over each protocol")
    parser.add_argument("--panics", type=float, default=50, help="panics a second")
    arguments = parser.parse_args()
    demo, program = binary("DEMO_BIN", "demo-server"), binary("STREAM_LOAD", "stream-load")
    command = [demo, "--public", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    environment = {**os.environ, "RUST_LOG": "off", "RUST_BACKTRACE": "0"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    try:
        address = server.stdout.readline().split("public=")[1].split()[0].removeprefix("http://")
        good = soak(server, program, address, arguments)
    finally:
        server.terminate()
        server.wait()
    print("flat" if good else "NOT FLAT")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
