# What clients that read any server-sent events deliver of each ending, in a dialect of an application's own: crates/errors/src/endings.md.
# debian: chromium
import importlib.metadata
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(HERE / "heartbeats"))

import clients
import readers
from check import check

ENDINGS = ["whole", "failed", "incomplete", "drained", "late"]
TABLE = HERE.parents[1] / "crates/errors/src/endings.md"


def httpx_sse(url: str) -> list[str]:
    got = []
    try:
        got.extend(text for text in clients.read_httpx_sse(url))
    except Exception as error:
        got.append(f"error: {type(error).__name__}")
    return got


def verdict(got: list[str]) -> str:
    """`told`: the application got an event that says that the stream has failed."""
    delivered = [text for text in got if not text.startswith("error: ")]
    if delivered == ["a", "b", "[END]"]:
        return "complete"
    if "[END]" not in delivered and delivered and delivered[-1].startswith('{"error":'):
        return "told"
    return "raises" if delivered != got else "**looks whole**"


urls = [f"{os.environ['DIALECTS_URL']}/own/{ending}" for ending in ENDINGS]
processes = [readers.node("--events", *urls), readers.rust(*urls)]
found = {f"httpx-sse {importlib.metadata.version('httpx-sse')} (PyPI)": [httpx_sse(url) for url in urls]}
found |= readers.seen_by("node", processes[0]) | readers.crates(readers.seen_by("Rust", processes[1]))
lines = TABLE.read_text().splitlines()
for name, seen in sorted(found.items(), key=lambda item: item[0].casefold()):
    if os.environ.get("VERBOSE"):
        print(name, seen)
    line = f"| {name} | {' | '.join(map(verdict, seen))} |"
    check(f"{name}: endings.md has {', '.join(map(verdict, seen))}", line in lines, f"it has no line {line}")
