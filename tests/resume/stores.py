"""The stores that demo servers share: each on a port or socket of its own, with what it stores in one directory."""

import json
import pathlib
import signal
import subprocess
import time


class Redis:
    def __init__(self, scratch):
        self.scratch, self.socket = scratch, pathlib.Path(scratch) / "socket"
        self.url = f"redis+unix://{self.socket}"
        self.start()

    def start(self):
        options = "--port 0 --unixsocket socket --save '' --appendonly yes --appendfsync always".split()
        self.process = subprocess.Popen(["redis-server", *options], cwd=self.scratch, stdout=subprocess.DEVNULL)
        while subprocess.run(["redis-cli", "-s", self.socket, "PING"], capture_output=True).stdout != b"PONG\n":
            time.sleep(0.05)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def disconnect(self):
        """Closes all connections, with the answers that were on their way."""
        for kind in ("pubsub", "normal"):
            subprocess.run(["redis-cli", "-s", self.socket, "CLIENT", "KILL", "TYPE", kind], check=True, stdout=subprocess.DEVNULL)


class Nats:
    def __init__(self, scratch):
        self.scratch = pathlib.Path(scratch)
        config = f'ports_file_dir: "{scratch}"\njetstream {{ store_dir: "{scratch}/store" }}\n'
        (self.scratch / "config").write_text(config)
        self.url = None
        self.start()

    def start(self):
        port = self.url.rsplit(":")[-1] if self.url else "-1"
        command = ["nats-server", "--config", "config", "--addr", "127.0.0.1", "--port", port]
        self.process = subprocess.Popen(command, cwd=self.scratch, stderr=subprocess.DEVNULL)
        ports = self.scratch / f"nats-server_{self.process.pid}.ports"
        while not (ports.exists() and ports.read_text()):
            time.sleep(0.05)
        self.url = json.loads(ports.read_text())["nats"][0]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


STORES = {"redis": Redis, "nats": Nats}
