"""The clients of Node and of crates.io as processes that print what they got."""

import json
import os
import pathlib
import re
import subprocess

from check import check

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[2]


def reader(*command: object) -> subprocess.Popen:
    return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)


def node(*arguments: str) -> subprocess.Popen:
    return reader("node", HERE / "clients.mjs", *arguments)


def rust(*urls: str) -> subprocess.Popen:
    return reader(rust_binary(), *urls)


def seen_by(name: str, process: subprocess.Popen) -> dict:
    out, _ = process.communicate(timeout=100)
    check(f"{name} reads to its end", process.returncode == 0, process.returncode)
    return json.loads(out)


def rust_binary() -> pathlib.Path:
    binary = pathlib.Path(os.environ["DEMO_BIN"]).parent / "sse-clients"
    if not binary.exists():
        subprocess.run(["cargo", "build", "--quiet", "-p", "e2e", "--bin", "sse-clients"], cwd=ROOT, check=True)
    return binary


def crates(seen: dict) -> dict:
    versions = dict(re.findall(r'name = "([^"]+)"\nversion = "([^"]+)"', (ROOT / "Cargo.lock").read_text()))
    return {f"{name} {versions[name]} (crate)": found for name, found in seen.items()}
