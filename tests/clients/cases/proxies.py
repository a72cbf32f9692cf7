# nginx, haproxy, caddy and Envoy in front of the demo, each with the least configuration that works.
# debian: nginx-light haproxy caddy
import hashlib
import http.client
import json
import urllib.parse

from check import DEMO_URL, Arrivals, check, equal
from proxies import PROXIES, running

DEMO = urllib.parse.urlsplit(DEMO_URL).netloc


def get(port: int, path: str) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    return connection.getresponse(), connection


def live(name: str, port: int) -> None:
    response, connection = get(port, "/events?count=6&interval_ms=150")
    arrivals, numbers = Arrivals(), []
    while line := response.readline():
        if line.startswith(b"data: "):
            arrivals.note()
            numbers.append(json.loads(line[6:])["n"])
    connection.close()
    equal(f"{name}: every event in order", numbers, list(range(6)))
    check(f"{name}: the first came before the last was made", arrivals.spread_ms >= 125, arrivals.times)


def digest(name: str, port: int) -> None:
    response, connection = get(port, "/bytes?size=50000")
    body = response.read()
    connection.close()
    announced = response.getheader("x-content-md5") or response.getheader("content-digest")
    equal(f"{name}: the announced digest is that of what arrived", announced, hashlib.md5(body).hexdigest())


def failure(name: str, port: int) -> None:
    response, connection = get(port, "/fail?how=panic-body&format=sse&after=2")
    text = response.read().decode()
    connection.close()
    events = [event for event in text.split("\n\n") if event]
    check(f"{name}: a panic is the last event", len(events) == 3 and "event: error" in events[-1], text)


def corruption(name: str, port: int) -> None:
    for length in (0, 1):
        response, connection = get(port, f"/promise?size=300000&corrupt=1&length={length}")
        try:
            verdict = f"{len(response.read())} bytes"
        except http.client.IncompleteRead:
            verdict = "cut"
        connection.close()
        refused = response.status == 502 or verdict == "cut"
        if name == "caddy" and length == 0 and not refused:
            # caddy 2.6 ends a chunked body cleanly when its upstream was cut: that all of it came, only a length, a
            # digest or a last record can tell. The corrupt end itself never arrives.
            check("caddy: of a corrupt body the end is missing", int(verdict.split()[0]) < 300000, verdict)
            continue
        check(f"{name}: a corrupt body does not look whole (length={length})", refused, f"{response.status}, {verdict}")


for name in PROXIES:
    with running(name, DEMO) as port:
        live(name, port)
        digest(name, port)
        failure(name, port)
        corruption(name, port)
