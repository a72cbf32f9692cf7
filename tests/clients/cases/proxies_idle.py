# The header guard and the heartbeats behind proxies: each event is there before the next is made, also where the proxy compresses
# what it may, and a stream that is idle for longer than the proxy allows is not cut.
# debian: nginx-light haproxy caddy
#
# LONG=1 takes the times of production: an idle stream of 90 s, proxies that cut after 60 s.
import concurrent.futures
import contextlib
import http.client
import os
import subprocess
import zlib

from check import Arrivals, check
from proxies import ALL, running

# seconds: between two events, until the proxy cuts, between two heartbeats
PAUSE, LIMIT, BEAT = (90, 60, 15) if os.environ.get("LONG") else (7, 3, 1)


@contextlib.contextmanager
def demo(*flags: str):
    command = [os.environ["DEMO_BIN"], "--public", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--advertise", "0s", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process.stdout.readline().split()[1].removeprefix("public=")
    finally:
        process.kill()
        process.wait()


def get(port: int, path: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PAUSE + 20)
    connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
    return connection, connection.getresponse()


def events(response: http.client.HTTPResponse):
    """Each piece of text as it arrives."""
    zipped = response.getheader("content-encoding") == "gzip"
    decoder = zlib.decompressobj(31)
    while data := response.read1():
        yield decoder.decompress(data).decode() if zipped else data.decode()


def first_before_last(port: int) -> bool:
    """Whether the first of two events arrives before the second is made: a held-back stream gives both at once."""
    connection, response = get(port, "/events?count=2&interval_ms=1500")
    arrivals, text = Arrivals(), ""
    with contextlib.closing(connection):
        for piece in events(response):
            for _ in range((text + piece).count("data: ") - text.count("data: ")):
                arrivals.note()
            text += piece
    return len(arrivals.times) == 2 and arrivals.spread_ms > 750


def idle(kind: str, server: str, survives: bool) -> None:
    with running(kind, server, idle=LIMIT) as port:
        connection, response = get(port, f"/events?count=2&interval_ms={PAUSE * 1000}")
        with contextlib.closing(connection):
            text, cut = "", False
            try:
                for piece in events(response):
                    text += piece
            except (http.client.IncompleteRead, ConnectionError):
                cut = True
    whole = text.count("data: ") == 2 and not cut
    if survives:
        check(f"{kind}: a stream that is idle for {PAUSE} s survives a limit of {LIMIT} s", whole, text)
        check(f"{kind}: by its heartbeats", text.count(": heartbeat\n") >= PAUSE // BEAT - 2, text)
    else:
        check(f"{kind}: without heartbeats it is cut", not whole, text)


with demo("--heartbeat", f"{BEAT}s", "--idle-timeout", "120s") as server, demo("--heartbeat", "off", "--idle-timeout", "120s") as quiet, demo("--bare") as bare:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        idles = [pool.submit(idle, kind, server, True) for kind in ALL]
        # one is enough to show that the limit is one
        idles.append(pool.submit(idle, "nginx", quiet, False))
        for kind in ALL:
            for hard in (False, True):
                with running(kind, server, hard=hard) as port:
                    how = "that compresses events" if hard else "as it is by default"
                    check(f"{kind} {how}: an event is there before the next is made", first_before_last(port))
        with running("nginx over HTTP/1.0", bare) as port:
            check("nginx over HTTP/1.0: without the guard events are held back", not first_before_last(port))
        for done in idles:
            done.result()
