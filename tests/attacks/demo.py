"""The demo server as a process: its memory, its file descriptors, what it says of itself."""

import http.client
import json
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable

SCRATCH = os.environ["SCRATCH"]
# For what must happen, on a machine that does other things too.
PATIENCE = 30

Address = tuple[str, int]


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class Demo:
    def __init__(self, *flags: str, files: int | None = None, public: str = "127.0.0.1:0") -> None:
        """`files`: the limit of its file descriptors."""
        self.log_path = os.path.join(SCRATCH, f"demo-{time.monotonic_ns()}.log")
        command = [os.environ["DEMO_BIN"], "--public", public, "--admin", "127.0.0.1:0"]
        command += ["--advertise", "0s", "--deadline", "2s", *flags]

        def limit() -> None:
            if files is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, preexec_fn=limit, env={**os.environ, "RUST_LOG": "error"}
            )
        assert self.process.stdout
        line = self.process.stdout.readline().decode()
        found = re.match(r"listening public=(\S+):(\S+) admin=(\S+):(\d+)", line)
        if not found:
            raise RuntimeError(f"the demo server said {line!r}\n{self.log()}")
        # without a port if it is a Unix socket
        self.public: Address = (found[1], int(found[2]) if found[2].isdigit() else 0)
        self.admin: Address = (found[3], int(found[4]))

    def url(self, path: str) -> str:
        return f"http://{self.public[0]}:{self.public[1]}{path}"

    def log(self) -> str:
        return open(self.log_path, errors="replace").read()

    def lives(self) -> bool:
        return self.process.poll() is None

    def memory(self, what: str = "VmRSS") -> float:
        """MiB; `VmHWM` is the most that it ever had."""
        status = open(f"/proc/{self.process.pid}/status").read()
        found = re.search(rf"{what}:\s+(\d+) kB", status)
        assert found
        return int(found[1]) / 1024

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def in_flight(self) -> int:
        admin = http.client.HTTPConnection(*self.admin, timeout=PATIENCE)
        admin.request("GET", "/status")
        status = json.loads(admin.getresponse().read())
        admin.close()
        return int(status["in_flight"])

    def slow_readers(self) -> int:
        """How many responses ended because their client stopped reading."""
        admin = http.client.HTTPConnection(*self.admin, timeout=PATIENCE)
        admin.request("GET", "/metrics")
        text = admin.getresponse().read().decode()
        admin.close()
        found = re.findall(r'^http_server_response_stream_count_total\{.*"slow_reader".*\} (\d+)$', text, re.MULTILINE)
        return sum(int(count) for count in found)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)
