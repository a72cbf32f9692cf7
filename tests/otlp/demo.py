"""The demo server as a process, and clients of it."""

import os
import re
import signal
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor


class Demo:
    def __init__(self, otlp: str, scratch: str) -> None:
        self.log_path = os.path.join(scratch, f"demo-{time.monotonic_ns()}.log")
        command = [os.environ["DEMO_BIN"], "--public", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        # Otherwise the request spans count joined chunks, and the chunk spans those of the handler.
        command += ["--coalesce", "0"]
        command += ["--otlp", otlp]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout
        line = self.process.stdout.readline().decode()
        found = re.match(r"listening public=(\S+) admin=(\S+)", line)
        if not found:
            raise RuntimeError(f"the demo server said {line!r}\n{self.log()}")
        self.url, self.admin = f"http://{found[1]}", f"http://{found[2]}"
        self.requests = 0

    def log(self) -> str:
        return open(self.log_path, errors="replace").read()

    def curl(self, path: str, *options: str) -> int:
        """Reads one answer to its end; the exit code of curl."""
        self.requests += 1
        command = ["curl", "-sN", "-o", "/dev/null", *options, self.url + path]
        return subprocess.run(command, check=False, timeout=60).returncode

    def load(self, paths: list[str], *options: str) -> None:
        """All of them, twenty at a time."""
        with ThreadPoolExecutor(20) as pool:
            list(pool.map(lambda path: self.curl(path, *options), paths))

    def metrics(self) -> dict[str, float]:
        """The account of spans, summed over the reasons."""
        text = urllib.request.urlopen(self.admin + "/metrics", timeout=10).read().decode()
        account: dict[str, float] = {}
        for line in text.splitlines():
            if found := re.match(r"http_server_span_(\w+?)(?:_total)?(?:\{.*\})? (\S+)$", line):
                account[found[1]] = account.get(found[1], 0) + float(found[2])
        return account

    def stop(self) -> tuple[int, int, int, float]:
        """SIGTERM: exit code, spans exported, spans lost, seconds that it took."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        took = time.monotonic() - begun
        found = re.search(r"traces (?:not )?flushed.*exported=(\d+) lost=(\d+)", plain(self.log()))
        if not found:
            raise RuntimeError(f"no account in the log:\n{self.log()}")
        return code, int(found[1]), int(found[2]), took


def plain(text: str) -> str:
    """Without the colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
