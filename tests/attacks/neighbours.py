"""Clients that do nothing wrong, and must not notice an attack."""

import hashlib
import http.client
import json
import socket
import ssl
import subprocess
import threading
import time

from demo import PATIENCE, Address, Demo
from h2client import H2Client

RECORDS = 20
PATH = f"/lines?count={RECORDS}&interval_ms=25"


def whole(text: bytes) -> bool:
    return [json.loads(line)["n"] for line in text.splitlines()] == list(range(RECORDS))


def tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Neighbours:
    """Streams over HTTP/1.1 and HTTP/2, one after the other, each on its own connection, and a readiness probe, for as long as
    the `with` block takes. Each stream that has begun is read to its end."""

    def __init__(self, demo: Demo, tls: bool = False) -> None:
        self.demo, self.tls = demo, tls
        self.ended = threading.Event()
        self.served = {"HTTP/1.1 streams": 0, "HTTP/2 streams": 0, "probes": 0}
        self.failures: list[str] = []
        self.threads = [
            threading.Thread(target=self.repeat, args=(name, client))
            for name, client in zip(self.served, [self.http1, self.http2, self.probe])
        ]

    def __enter__(self) -> "Neighbours":
        for thread in self.threads:
            thread.start()
        # Not before each has its connection: an attack may leave none.
        end = time.monotonic() + PATIENCE
        while not all(self.served.values()) and not self.failures and time.monotonic() < end:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def verdict(self) -> tuple[bool, str]:
        return not self.failures and all(self.served.values()), str(self.failures or self.served)

    def summary(self) -> str:
        return ", ".join(f"{count} {name}" for name, count in self.served.items())

    def repeat(self, name, client) -> None:
        try:
            client(name)
        except Exception as error:  # each is a failure of the server
            self.failures.append(f"{name} after {self.served[name]}: {error!r}")

    def http1(self, name: str) -> None:
        if self.tls:
            client = http.client.HTTPSConnection(*self.demo.public, timeout=PATIENCE, context=tls_context())
        else:
            client = http.client.HTTPConnection(*self.demo.public, timeout=PATIENCE)
        while not self.ended.is_set():
            client.request("GET", PATH)
            if not whole(client.getresponse().read()):
                raise RuntimeError("not whole")
            self.served[name] += 1
        client.close()

    def http2(self, name: str) -> None:
        client = H2Client(self.demo.public, tls_context() if self.tls else None)
        while not self.ended.is_set():
            if not whole(client.get(PATH)):
                raise RuntimeError("not whole")
            self.served[name] += 1
        client.close()

    def probe(self, name: str) -> None:
        client = http.client.HTTPConnection(*self.demo.admin, timeout=PATIENCE)
        while not self.ended.is_set():
            client.request("GET", "/readyz")
            response = client.getresponse()
            response.read()
            if response.status != 200:
                raise RuntimeError(f"/readyz answered {response.status}")
            self.served[name] += 1
            self.ended.wait(0.05)
        client.close()


def h2load(url: str) -> str:
    """200 requests of a real client on ten new connections: how they ended."""
    command = ["h2load", "-n", "200", "-c", "10", "-m", "10", url]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    return next((line for line in output.splitlines() if line.startswith("requests:")), output)


class Background(threading.Thread):
    """A slow client that does nothing wrong. `error` is why it failed."""

    def __init__(self, name: str, client, *arguments: object) -> None:
        super().__init__(daemon=True)
        self.title, self.client, self.arguments = name, client, arguments
        self.error: object = "has not ended"
        self.start()

    def run(self) -> None:
        try:
            self.error = self.client(*self.arguments)
        except Exception as error:  # each is a failure of the server
            self.error = repr(error)


def connect(address: Address, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    client.settimeout(PATIENCE)
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.connect(address)
    return client


def rest(client: socket.socket) -> bytes:
    received = b""
    while some := client.recv(65536):
        received += some
    return received


def slow_reader(address: Address, size: int, rate: int) -> object:
    """Reads with a small receive buffer at `rate` bytes a second."""
    return reads_slowly(connect(address, 4096), size, rate)


def reads_slowly(client: socket.socket, size: int, rate: int) -> object:
    client.sendall(f"GET /bytes?size={size}&length=1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
    received = b""
    while some := client.recv(rate // 4):
        received += some
        time.sleep(len(some) / rate)
    head, _, body = received.partition(b"\r\n\r\n")
    return None if b"200 OK" in head and len(body) == size else f"{len(body)} of {size} bytes"


def pausing_reader(address: Address, size: int, seconds: float) -> object:
    """Reads as fast as it can, except for one pause."""
    client = connect(address, 4096)
    client.sendall(f"GET /bytes?size={size}&length=1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
    received = client.recv(4096)
    time.sleep(seconds)
    received += rest(client)
    head, _, body = received.partition(b"\r\n\r\n")
    return None if b"200 OK" in head and len(body) == size else f"{len(body)} of {size} bytes"


def slow_head(address: Address, seconds: float) -> object:
    """Sends its head in ten pieces; a second request on the same connection likewise."""
    client = connect(address)
    for connection in ["keep-alive", "close"]:
        request = f"GET /whoami HTTP/1.1\r\nhost: localhost\r\nconnection: {connection}\r\n\r\n".encode()
        step = -(-len(request) // 10)
        for at in range(0, len(request), step):
            client.sendall(request[at : at + step])
            time.sleep(seconds / 10)
        received = client.recv(4096)
        if b"200 OK" not in received:
            return received
    return None


def slow_upload(address: Address, size: int, rate: int) -> object:
    client = connect(address)
    body = bytes(n % 251 for n in range(size))
    client.sendall(f"PUT /upload HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n".encode())
    for at in range(0, size, rate // 4):
        client.sendall(body[at : at + rate // 4])
        time.sleep(1 / 4)
    received = rest(client)
    return None if hashlib.md5(body).hexdigest().encode() in received else received


def idle(address: Address, seconds: float) -> object:
    """Keeps its connection between two requests."""
    client = http.client.HTTPConnection(*address, timeout=PATIENCE)
    client.request("GET", "/whoami")
    client.getresponse().read()
    before = client.sock
    time.sleep(seconds)
    client.request("GET", "/whoami")
    client.getresponse().read()
    return None if client.sock is before else "its connection was closed"


def quiet_http2(address: Address, ended: threading.Event) -> object:
    """Has a stream that says next to nothing, and answers PINGs."""
    client = H2Client(address)
    client.begin("/events?count=0&interval_ms=60000")
    while not ended.is_set():
        if not client.step(0.2):
            return "its connection was closed"
    client.close()
    return None
