"""Puts load with failures on the demo server and compares what Prometheus reports with what the clients provoked."""

import collections
import http.server
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

SCRATCH = pathlib.Path(os.environ["SCRATCH"])
DASHBOARDS = pathlib.Path(os.environ["DASHBOARDS"])
SCRAPE_S = 1
# four scrapes, as Grafana chooses it
RATE_INTERVAL = f"{4 * SCRAPE_S}s"

counts = collections.Counter()


def check(what: str, good: bool, why: object = "") -> None:
    counts[good] += 1
    print(f"ok - {what}" if good else f"not ok - {what}: {why}", flush=True)


def equal(what: str, got: object, wanted: object) -> None:
    check(what, got == wanted, f"got {got!r}, wanted {wanted!r}")


# -- processes


def start(name: str, *command: str) -> subprocess.Popen:
    with (SCRATCH / f"{name}.out").open("wb") as out, (SCRATCH / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=log)


def stop(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


def wait_for(what: str, ready, seconds: float = 20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if (got := ready()) not in (None, False):
                return got
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"not ok - {what}: not within {seconds} s")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes whatever is exported to it; tests/otlp looks at that."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def start_collector() -> str:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


# -- the load: every way of ending that a client can provoke, on both protocols


class Load:
    """Requests through curl, and what each must be counted as."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.expected = collections.Counter()
        self.gaps = 0
        self.lock = threading.Lock()

    def curl(self, path: str, *options: str) -> subprocess.CompletedProcess:
        return subprocess.run(["curl", "-sN", "-o", os.devnull, *options, self.url + path], capture_output=True)

    def expect(self, route: str, outcome: str, error_type: str = "", chunks: int = 1) -> None:
        with self.lock:
            self.expected[route, outcome, error_type] += 1
            if route == "/lines":
                self.gaps += chunks - 1

    def round(self, protocol: str, n: int) -> None:
        """One of everything."""
        for path, route, chunks in [
            ("/events?count=40&interval_ms=5", "/events", 40),
            ("/lines?count=40&interval_ms=5", "/lines", 40),
            # longer than the last bucket of chunk indexes
            ("/lines?count=4200&interval_ms=0", "/lines", 4200),
            ("/bytes?size=200000&chunk=1000", "/bytes", 200),
            (f"/made-up/{n}?x={n}", "_unmatched", 1),
        ]:
            self.curl(path, protocol)
            self.expect(route, "complete", chunks=chunks)
        for corrupt, outcome in [(0, ("complete",)), (1, ("error", "digest_mismatch"))]:
            self.curl(f"/promise?size=300000&length=1&corrupt={corrupt}", protocol)
            self.expect("/promise", *outcome)
        self.curl("/events?count=3", protocol, "--head", "-H", "x-request-id: not/an,id")
        self.expect("/events", "complete")
        self.curl("/lines", protocol, "-X", f"MADEUP{n}")
        self.expect("/lines", "complete")
        for how, outcome, error_type in [
            ("error-body", "error", "_OTHER"),
            ("panic-body", "panic", "panic"),
            ("panic-handler", "panic", "panic"),
            ("hang", "error", "timeout"),
        ]:
            self.curl(f"/fail?how={how}&after=3&interval_ms=5&format=ndjson", protocol)
            self.expect("/fail", outcome, error_type)
        # a client that leaves
        self.curl("/events?count=0&interval_ms=20", protocol, "--max-time", "0.4")
        self.expect("/events", "aborted", "dropped")


def put_load(url: str, rounds: int) -> Load:
    load = Load(url)
    workers = [
        threading.Thread(target=lambda p=protocol: [load.round(p, n) for n in range(rounds)])
        for protocol in ("--http1.1", "--http2-prior-knowledge")
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return load


# -- what Prometheus says


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict]:
        answer = json.loads(get(f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
        return answer["data"]["result"]

    def value(self, expression: str) -> float | None:
        result = self.query(expression)
        return float(result[0]["value"][1]) if result else None

    def range(self, expression: str, seconds: int) -> list[dict]:
        end = time.time()
        query = {"query": expression, "start": end - seconds, "end": end, "step": SCRAPE_S}
        answer = json.loads(get(f"{self.url}/api/v1/query_range?" + urllib.parse.urlencode(query)))
        return answer["data"]["result"]


def start_prometheus(admin: str) -> tuple[subprocess.Popen, Prometheus]:
    config = SCRATCH / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: {SCRAPE_S}s}}\n"
        f"scrape_configs: [{{job_name: demo, static_configs: [{{targets: ['{admin}']}}]}}]\n"
    )
    address = f"127.0.0.1:{free_port()}"
    process = start(
        "prometheus",
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={SCRATCH / 'tsdb'}",
        f"--web.listen-address={address}",
    )
    prometheus = Prometheus(f"http://{address}")
    wait_for("Prometheus scrapes the demo", lambda: prometheus.value('up{job="demo"}') == 1)
    return process, prometheus


def panels(dashboard: dict):
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            yield panel


def expression(target: dict) -> str:
    filled = target["expr"].replace("$__rate_interval", RATE_INTERVAL).replace("$route", ".*")
    assert "$" not in filled, f"an unknown variable in {filled}"
    return filled


def is_number(value: str) -> bool:
    return value not in ("NaN", "+Inf", "-Inf")


def check_dashboard(prometheus: Prometheus, path: pathlib.Path, seconds: int) -> None:
    dashboard = json.loads(path.read_text())
    for panel in panels(dashboard):
        empty = []
        for target in panel["targets"]:
            series = prometheus.range(expression(target), seconds)
            if not any(is_number(value) for one in series for _, value in one["values"]):
                empty.append(target["expr"])
        check(f"panel \"{panel['title']}\" has data in {len(panel['targets'])} queries", not empty, empty)
    # and the other way round: what is measured is shown somewhere
    shown = " ".join(target["expr"] for panel in panels(dashboard) for target in panel["targets"])
    names = {one["metric"]["__name__"] for one in prometheus.query('{job="demo",__name__=~"http_server_.+"}')}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    # dashboards for these exist
    of_the_convention = {"http_server_request_duration_seconds", "http_server_active_requests"}
    missing = sorted(name for name in families - of_the_convention if name not in shown)
    equal("every instrument is in a panel", missing, [])
    for name in of_the_convention:
        check(f"{name} is there for dashboards of the convention", name in families)


def check_counts(prometheus: Prometheus, load: Load) -> None:
    expected = dict(load.expected)
    name = "http_server_response_stream_count_total"

    def counted() -> dict:
        return {
            tuple(one["metric"].get(label, "") for label in ("http_route", "outcome", "error_type")): int(one["value"][1])
            for one in prometheus.query(name)
        }

    # the last scrape may be from before the last stream
    try:
        wait_for("", lambda: counted() == expected, 5)
    except SystemExit:
        pass
    equal("each stream is counted once, as it ended", counted(), expected)
    in_all = sum(expected.values())
    for family, what in [
        ("stream_duration_seconds_count", "duration"),
        ("stream_count_total", "outcome"),
        # a handler that panicked too: the error writer answers for it
        ("body_size_bytes_count", "size"),
    ]:
        equal(f"each stream has one {what}", prometheus.value(f"sum(http_server_response_{family})"), in_all)
    equal(
        "gaps of a stream are one less than its chunks",
        prometheus.value('sum(http_server_response_chunk_gap_seconds_count{http_route="/lines"})'),
        load.gaps,
    )


def check_labels(prometheus: Prometheus) -> None:
    def values(label: str) -> set[str]:
        return {one["metric"][label] for one in prometheus.query(f"count by ({label}) ({{job=\"demo\",{label}!=\"\"}})")}

    equal("routes are templates", values("http_route"), {"/events", "/lines", "/bytes", "/fail", "/promise", "_unmatched"})
    equal("methods are known ones", values("http_request_method"), {"GET", "HEAD", "_OTHER"})
    equal("index buckets are twelve", values("chunk_index_bucket"), {str(1 << n) for n in range(12)})


def check_other_layers(prometheus: Prometheus, load: Load) -> None:
    digests = prometheus.query("http_server_response_digest_count_total")
    digests = {one["metric"]["digest_outcome"]: int(one["value"][1]) for one in digests}
    equal("digests verified", digests["verified"], load.expected["/promise", "complete", ""])
    equal("digests mismatched", digests["mismatch"], load.expected["/promise", "error", "digest_mismatch"])
    span = "http_server_span"
    # in one query, or a scrape could come between the sums
    gone = " - ".join(f"sum({span}_{what})" for what in ("emitted_total", "exported_total", "dropped_total", "in_queue"))
    equal("spans emitted = exported + dropped + in queue", prometheus.value(gone), 0)
    check("spans were exported", prometheus.value(f"{span}_exported_total") > 0)


def check_drain(prometheus: Prometheus, public: str, admin: str) -> None:
    """The phases of a drain, as scraped while they last."""

    def state() -> str:
        (now,) = prometheus.query("http_server_drain_state == 1")
        return now["metric"]["drain_state"]

    equal("the server is in one state", state(), "active")
    streams = [start(f"drained-{path}", "curl", "-sN", f"http://{public}/{path}?count=0&interval_ms=50") for path in ("events", "lines")]
    try:
        in_flight = "http_server_drain_in_flight"
        wait_for("open streams are in flight", lambda: prometheus.value(in_flight) == 2)
        urllib.request.urlopen(urllib.request.Request(f"http://{admin}/drain", method="POST"), timeout=10).close()
        wait_for("the drain is seen to advertise", lambda: state() == "advertise")
        wait_for("the drain is seen to close", lambda: state() == "close")
        check("the drain is seen to advertise, then to close", True)
        farewelled = 'http_server_response_stream_count_total{http_route="/events",outcome="aborted",error_type="drain"}'
        wait_for("the stream that may end early is aborted by the drain", lambda: prometheus.value(farewelled) == 1)
        equal("the stream that may run on is in flight", prometheus.value(in_flight), 1)
        for stream in streams:
            stream.wait(timeout=20)
    finally:
        for stream in streams:
            stop(stream)


def main() -> None:
    demo = start(
        "demo",
        os.environ["DEMO_BIN"],
        *("--public=127.0.0.1:0", "--admin=127.0.0.1:0", "--coalesce=0", "--idle-timeout=400ms", f"--otlp={start_collector()}"),
        *("--advertise=2500ms", "--early-end-window=100ms", "--deadline=8s"),
    )
    children = [demo]
    try:
        line = wait_for("the demo server starts", lambda: re.match(r"listening public=(\S+) admin=(\S+)", (SCRATCH / "demo.out").read_text()))
        public, admin = line.groups()
        began = time.monotonic()
        process, prometheus = start_prometheus(admin)
        children.append(process)

        open_streams = [start(f"open-{n}", "curl", "-sN", f"http://{public}/events?count=0&interval_ms=50") for n in range(3)]
        children += open_streams
        active = 'sum(http_server_response_stream_active{http_route="/events"})'
        wait_for("open streams are active", lambda: prometheus.value(active) == 3)
        check("open streams are active", True)

        load = put_load(f"http://{public}", rounds=4)
        equal("open streams are still active", prometheus.value(active) >= 3, True)
        for stream in open_streams:
            stop(stream)
            load.expect("/events", "aborted", "dropped")
        check_counts(prometheus, load)
        equal("nothing is active any more", prometheus.value("sum(http_server_response_stream_active)"), 0)
        check_labels(prometheus)

        text = get(f"http://{admin}/metrics")
        lint = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        equal("promtool check metrics is clean", (lint.returncode, lint.stdout + lint.stderr), (0, ""))
        for path in sorted(DASHBOARDS.glob("*.json")):
            check_dashboard(prometheus, path, int(time.monotonic() - began))
        check_other_layers(prometheus, load)
        check("the demo server lives", demo.poll() is None)
        check_drain(prometheus, public, admin)
        equal("the demo server ends by itself", demo.wait(timeout=20), 0)
    finally:
        for child in children:
            stop(child)
    if counts[False]:
        print((SCRATCH / "demo.log").read_text()[-4000:])


main()
print(f"{counts[True]} passed, {counts[False]} failed")
sys.exit(1 if counts[False] else 0)
