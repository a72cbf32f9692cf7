"""The demo server under attack: it lives, its neighbours notice nothing, and afterwards it holds no more than before."""

import os
import socket
import threading
import time
from collections.abc import Callable

import attackers
from demo import PATIENCE, SCRATCH, Demo, wait_for
from neighbours import (
    Background,
    Neighbours,
    connect,
    h2load,
    idle,
    pausing_reader,
    quiet_http2,
    reads_slowly,
    slow_head,
    slow_reader,
    slow_upload,
    tls_context,
)

HEADER_TIMEOUT = 3
# The shortest that the server accepts without a warning: a slow reader may take nothing for some 18 s.
WRITE_STALL = 20
STOPPED_READERS = 50
# Of a request body or a response in bytes per second, over this many seconds.
MIN_RATE, RATE_OVER = 500, 20
SLOW_BODIES = 20
# Of slowhttptest; of slow heads it has 200.
SLOWHTTPTEST = 100
# HTTP/2 streams that are read, beside one on the same connection that is not.
NEIGHBOURS = 100
ENHANCE_YOUR_CALM = 11
CANCEL = 8
passed = failed = 0


def check(what: str, good: bool, why: object = "") -> None:
    global passed, failed
    if good:
        passed += 1
        print(f"ok - {what}", flush=True)
    else:
        failed += 1
        print(f"not ok - {what}: {why}", flush=True)


def equal(what: str, got: object, wanted: object) -> None:
    check(what, got == wanted, f"got {got!r}, wanted {wanted!r}")


def attacked(name: str, demo: Demo, attack: Callable[[], None], tls: bool = False) -> None:
    """Runs an attack beside neighbours, and compares what the server holds before and after."""
    begin = time.monotonic()
    before = demo.descriptors()
    with Neighbours(demo, tls) as neighbours:
        attack()
    took = time.monotonic() - begin
    good, why = neighbours.verdict()
    check(f"{name}: neighbours are unharmed", good, why)
    scheme = "https" if tls else "http"
    requests = h2load(f"{scheme}://{demo.public[0]}:{demo.public[1]}/whoami")
    check(f"{name}: then 200 requests of h2load succeed", " 200 succeeded" in requests, requests)
    flat = wait_for(lambda: demo.descriptors() <= before)
    check(f"{name}: no file descriptor is left", flat, f"{demo.descriptors()} after {before}")
    print(f"== {name}: {took:.1f} s, {neighbours.summary()}; {demo.memory():.0f} MiB", flush=True)


def in_time(name: str, times: list[float], count: int, limit: float) -> None:
    """All connections were closed, none of them early."""
    equal(f"{name}: all {count} connections are closed", len(times), count)
    check(f"{name}: none before {limit} s", min(times, default=0) > limit - 0.2, times[:3])
    # one second on a quiet machine; the rest is for one that has other work
    check(f"{name}: and soon after", max(times, default=0) < limit + 6, times[-3:])


def slow_heads(demo: Demo) -> None:
    options = ["-c", "200", "-r", "200", "-i", "1", "-x", "8", "-l", "20", "-p", "10"]
    status, seconds, unavailable = attackers.slowhttptest(demo.url("/whoami"), "-H", *options)
    equal("slow heads: slowhttptest has lost all connections", status, "No open connections left")
    check("slow heads: in time", HEADER_TIMEOUT <= seconds <= HEADER_TIMEOUT + 7, f"{seconds} s")
    equal("slow heads: it found the service available", unavailable, 0)


def silences(demo: Demo) -> None:
    results: dict[str, list[float]] = {}

    def one(name: str) -> None:
        results[name] = attackers.silent(demo.public, attackers.BEGINNINGS[name], 20)

    threads = [threading.Thread(target=one, args=(name,)) for name in attackers.BEGINNINGS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, times in results.items():
        in_time(f"clients that send {name}", times, 20, HEADER_TIMEOUT)


def rapid_reset(demo: Demo) -> None:
    for path in ["/whoami", "/events?count=0"]:
        client = attackers.rapid_reset(demo.public, 10_000, path)
        check(f"rapid reset of {path}: the connection is closed", client.end())
        equal(f"rapid reset of {path}: by ENHANCE_YOUR_CALM", client.goaway(), ENHANCE_YOUR_CALM)


def continuation_flood(demo: Demo) -> None:
    for size in [16_384, 0]:
        client, sent = attackers.continuation_flood(demo.public, size, 20_000)
        # Small frames may all have been sent to the kernel before the server has closed.
        in_time = size == 0 or sent < 20_000
        check(f"CONTINUATION frames of {size} bytes: the connection is closed", client.end() and in_time, sent)


def large_heads(demo: Demo) -> None:
    status = attackers.large_head(demo.public, 1_000_000)
    check("a head of 1 MB over HTTP/1.1 is refused", status in (b"431", b""), status)
    status, goaway = attackers.large_h2_head(demo.public, 1_000_000)
    check("a head of 1 MB over HTTP/2 is refused", status == "431" or goaway is not None, (status, goaway))


seed = int(time.time())


def garbage(demo: Demo) -> None:
    global seed
    seed += 1
    times = attackers.garbage(demo.public, 100, seed)
    check("garbage: all 100 connections are closed", len(times) == 100, f"{len(times)}, seed {seed}")


def patient_resets(demo: Demo) -> None:
    begun, goaway = attackers.patient_resets(demo.public, 50)
    equal("50 streams that are cancelled after their head are no attack", (begun, goaway), (50, None))


def plain() -> None:
    demo = Demo("--header-timeout", f"{HEADER_TIMEOUT}s", "--write-stall", f"{WRITE_STALL}s", "--idle-timeout", "20m", "--min-rate", str(MIN_RATE))
    first = demo.descriptors()
    h2load(demo.url("/whoami"))
    check("descriptors are as before the first client", wait_for(lambda: demo.descriptors() <= first), demo.descriptors())
    vanished = attackers.vanished(demo.public, 20)
    stopped_readers = attackers.stopped_readers(demo.public, STOPPED_READERS)
    slow_bodies = attackers.slow_bodies(demo.public, SLOW_BODIES)
    # More of them, which send up to 8 bytes a second.
    trickling: list[tuple[str, int, int]] = []
    options = ["-c", str(SLOWHTTPTEST), "-r", "100", "-i", "1", "-x", "8", "-l", "60", "-t", "PUT", "-p", "10"]
    url = demo.url("/upload")
    trickler = threading.Thread(target=lambda: trickling.append(attackers.slowhttptest(url, "-B", *options)))
    trickler.start()
    ended = threading.Event()
    healthy = [
        Background("reads 7 kB/s", slow_reader, demo.public, 210_000, 7_000),
        Background("pauses", pausing_reader, demo.public, 10_000_000, WRITE_STALL / 2),
        Background("sends its heads in pieces", slow_head, demo.public, HEADER_TIMEOUT / 3),
        Background("uploads 1 kB/s", slow_upload, demo.public, 20_000, 1_000),
        Background("sends nothing between two requests", idle, demo.public, 4 * HEADER_TIMEOUT),
        Background("answers PINGs and has a quiet stream", quiet_http2, demo.public, ended),
    ]
    check("slow clients are connected", wait_for(lambda: demo.descriptors() >= first + 26 + SLOWHTTPTEST + STOPPED_READERS + SLOW_BODIES), demo.descriptors())
    attacked("slow heads", demo, lambda: slow_heads(demo))
    attacked("silence", demo, lambda: silences(demo))
    memory = []
    attacked("cancelled streams", demo, lambda: patient_resets(demo))
    fast = [rapid_reset, continuation_flood, large_heads, garbage]
    for round in range(2):
        for attack in fast:
            attacked(f"{attack.__name__} {round + 1}", demo, lambda: attack(demo))
        memory.append(demo.memory())
    text = ", ".join(f"{size:.1f}" for size in memory)
    check(f"memory is flat: {text} MiB after each round", memory[-1] < memory[0] + 8, memory)
    most = demo.memory("VmHWM")
    check(f"and was never more than 160 MiB: {most:.0f}", most < 160, most)

    for client in healthy[:-1]:
        client.join(60)
    stopped_readers.watch.join(60)
    in_time("readers that stop", stopped_readers.closed, STOPPED_READERS, WRITE_STALL)
    equal("readers that stop: all are counted as slow_reader, and nobody else", demo.slow_readers(), STOPPED_READERS)
    slow_bodies.watch.join(60)
    in_time("clients that send a byte of a body", slow_bodies.closed, SLOW_BODIES, RATE_OVER)
    trickler.join()
    status, seconds, unavailable = trickling[0]
    equal("slow bodies: slowhttptest has lost all connections", status, "No open connections left")
    check("slow bodies: in time", RATE_OVER <= seconds <= RATE_OVER + 9, f"{seconds} s")
    equal("slow bodies: it found the service available", unavailable, 0)
    vanished.watch.join(60)
    in_time("HTTP/2 clients that vanish", vanished.closed, 20, 40)
    ended.set()
    healthy[-1].join(60)
    for client in healthy:
        equal(f"a slow client that {client.title} is not cut", client.error, None)
    check("no response is in flight", wait_for(lambda: demo.in_flight() == 0), demo.in_flight())
    check("descriptors are as in the beginning", wait_for(lambda: demo.descriptors() <= first), demo.descriptors())
    stopped(demo)


def slow_reads() -> None:
    demo = Demo("--write-stall", "3s")
    # A stalled stream, and two of the connection whose window is used up.
    aborted = SLOWHTTPTEST + 3

    def attack() -> None:
        options = ["-c", str(SLOWHTTPTEST), "-r", "100", "-w", "64", "-y", "128", "-n", "1", "-z", "8", "-l", "8", "-p", "10"]
        results: list[tuple[str, int, int]] = []
        url = demo.url("/bytes?size=8000000")
        attacker = threading.Thread(target=lambda: results.append(attackers.slowhttptest(url, "-X", *options)))
        attacker.start()
        ends: dict[str, object] = {}
        clients = {
            "stream": lambda address: attackers.stalled_stream(address, NEIGHBOURS),
            "connection": attackers.stalled_connection,
        }
        stalled = [
            threading.Thread(target=lambda name=name, client=client: ends.update({name: client(demo.public)}))
            for name, client in clients.items()
        ]
        for thread in stalled:
            thread.start()
        # slowhttptest does not notice that its connections are reset, so the server is asked.
        wait_for(lambda: demo.slow_readers() >= aborted or not attacker.is_alive())
        check("slow reads: all connections are reset while slowhttptest still reads", attacker.is_alive(), demo.slow_readers())
        attacker.join()
        for thread in stalled:
            thread.join(60)
        whole = (CANCEL, [60] * NEIGHBOURS)
        equal(f"slow reads: one stalled stream is reset, and its {NEIGHBOURS} neighbours are whole", ends.get("stream"), whole)
        equal("slow reads: a connection whose window is used up is closed", ends.get("connection"), True)
        equal("slow reads: it found the service available", [unavailable for _, _, unavailable in results], [0])

    attacked("slow reads", demo, attack)
    equal("slow reads: slow_reader is why, and of nobody else", demo.slow_readers(), aborted)
    stopped(demo)


def stopped(demo: Demo) -> None:
    check("the server has lived through it", demo.lives(), demo.log())
    check("no panic in its log", "panicked" not in demo.log(), demo.log()[-2000:])
    equal("it drains, and nothing was in flight", demo.stop(), 0)


def other_transports() -> None:
    """Over TLS and over a Unix socket: a slow reader is served for longer than `write_stall`, one that stops is aborted."""
    files = [os.path.join(SCRATCH, name) for name in ("cert.pem", "key.pem")]
    path = os.path.join(SCRATCH, "public.sock")
    over_tls = Demo("--write-stall", "3s", "--tls-cert", files[0], "--tls-key", files[1])
    over_unix = Demo("--write-stall", "3s", public=f"unix:{path}")

    def tls() -> socket.socket:
        return tls_context().wrap_socket(connect(over_tls.public, 4096), server_hostname="localhost")

    def unix() -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        client.connect(path)
        return client

    transports = {"TLS": (over_tls, tls), "a Unix socket": (over_unix, unix)}
    results: dict[str, object] = {}
    threads = []
    for name, (demo, client) in transports.items():
        stopped_readers = [client() for _ in range(3)]
        for stopped_reader in stopped_readers:
            stopped_reader.sendall(b"GET /bytes?size=100000000 HTTP/1.1\r\nhost: a\r\n\r\n")
            stopped_reader.recv(4096)
        slow = threading.Thread(
            target=lambda name=name, client=client: results.update({name: reads_slowly(client(), 1_200_000, 200_000)})
        )
        slow.start()
        threads.append((slow, stopped_readers))
    for name, (demo, _) in transports.items():
        check(f"{name}: readers that stop are aborted", wait_for(lambda demo=demo: demo.slow_readers() == 3), demo.slow_readers())
    for slow, _ in threads:
        slow.join(PATIENCE)
    equal("readers at 200 kB/s are served", results, dict.fromkeys(transports))
    for name, (demo, _) in transports.items():
        equal(f"{name}: and are no slow_reader", demo.slow_readers(), 3)
        stopped(demo)


def handshakes() -> None:
    files = [os.path.join(SCRATCH, name) for name in ("cert.pem", "key.pem")]
    demo = Demo("--header-timeout", f"{HEADER_TIMEOUT}s", "--tls-cert", files[0], "--tls-key", files[1])
    hello = attackers.client_hello()

    def attack() -> None:
        beginnings = [b"", hello[:50], hello]
        clients = [attackers.connect(demo.public, data) for data in beginnings for _ in range(30)]
        in_time("TLS handshakes that hang", attackers.closed_after(clients), 90, HEADER_TIMEOUT)
        clients = [attackers.connect(demo.public, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n") for _ in range(20)]
        times = attackers.closed_after(clients)
        equal("clients that do not speak TLS are closed", len(times), 20)

    attacked("TLS handshakes", demo, attack, tls=True)
    stopped(demo)


def descriptors() -> None:
    demo = Demo("--header-timeout", f"{HEADER_TIMEOUT}s", files=64)

    def attack() -> None:
        clients = [attackers.connect(demo.public) for _ in range(100)]
        exhausted = wait_for(lambda: "cannot accept" in demo.log())
        check("100 connections for 64 descriptors: accepting fails", exhausted, demo.log())
        times = attackers.closed_after(clients, 60)
        equal("and all of them are closed in turn", len(times), 100)

    attacked("no file descriptors", demo, attack)
    lines = demo.log().count("cannot accept")
    check(f"its log has at most 10 lines a second of it: {lines}", lines < 600, lines)
    stopped(demo)


begin = time.monotonic()
plain()
slow_reads()
other_transports()
handshakes()
descriptors()
print(f"== {time.monotonic() - begin:.0f} s")
print(f"{passed} passed, {failed} failed")
raise SystemExit(failed > 0)
