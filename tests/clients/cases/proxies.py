# nginx, haproxy and caddy in front of the demo, each with the least configuration that works.
# debian: nginx-light haproxy caddy
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse

from check import DEMO_URL, Arrivals, check, equal

SCRATCH = pathlib.Path(os.environ["SCRATCH"])
DEMO = urllib.parse.urlsplit(DEMO_URL).netloc


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def nginx(port: int) -> list[str]:
    where = SCRATCH / "nginx"
    where.mkdir()
    temporary = " ".join(
        f"{name}_temp_path {where}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # buffering is on, as it is by default: X-Accel-Buffering has to switch it off
    (where / "nginx.conf").write_text(f"""
        daemon off; pid {where}/pid; error_log {where}/error.log;
        events {{}}
        http {{
            access_log off; {temporary}
            server {{
                listen 127.0.0.1:{port};
                location / {{ proxy_pass {DEMO_URL}; proxy_http_version 1.1; proxy_set_header Connection ""; }}
            }}
        }}""")
    return ["nginx", "-p", str(where), "-c", str(where / "nginx.conf")]


def haproxy(port: int) -> list[str]:
    config = SCRATCH / "haproxy.cfg"
    config.write_text(f"""
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend in
    bind 127.0.0.1:{port}
    default_backend demo
backend demo
    server demo {DEMO}
""")
    return ["haproxy", "-db", "-f", str(config)]


def caddy(port: int) -> list[str]:
    config = SCRATCH / "Caddyfile"
    config.write_text(f"""
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    reverse_proxy {DEMO}
}}
""")
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)]


@contextlib.contextmanager
def running(name: str, command: list[str], port: int):
    log = (SCRATCH / f"{name}.log").open("wb")
    environment = {**os.environ, "HOME": str(SCRATCH), "PATH": os.environ["PATH"] + ":/usr/sbin"}
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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


for name, configure in [("nginx", nginx), ("haproxy", haproxy), ("caddy", caddy)]:
    port = free_port()
    command = configure(port)
    command[0] = shutil.which(command[0], path=os.environ["PATH"] + ":/usr/sbin:/sbin") or command[0]
    with running(name, command, port):
        live(name, port)
        digest(name, port)
        failure(name, port)
        corruption(name, port)
