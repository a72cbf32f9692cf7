# `stream-load doctor` through nginx, haproxy, caddy and Envoy, in good and in bad configurations.
# debian: nginx-light haproxy caddy
import concurrent.futures
import http.server
import json
import os
import socket
import subprocess
import threading
import time
import urllib.parse

from check import DEMO_URL, check, equal
from proxies import ALL, PROXIES, running

DEMO = urllib.parse.urlsplit(DEMO_URL).netloc


class Unguarded(http.server.BaseHTTPRequestHandler):
    """A server that tells no proxy anything: paced events, a stream that breaks, and one that is silent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        chunked = self.request_version == "HTTP/1.1"
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.close_connection = True
        self.end_headers()

        def send(text):
            data = text.encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)

        for n in range(3 if self.path == "/broken" else 1 if self.path == "/silent" else 12):
            send('data: {"n": %d, "t": %d}\n\n' % (n, time.time() * 1000))
            time.sleep(0.25)
        if self.path == "/silent":
            time.sleep(8)
        if self.path != "/broken":
            if chunked:
                self.wfile.write(b"0\r\n\r\n")
            return
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_):
        pass


def doctor(url, *more):
    """Its exit code, and the checks that found a fault."""
    command = [os.environ["STREAM_LOAD"], "doctor", url, "-o", "json", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if not done.stdout:
        return done.returncode, done.stderr
    findings = json.loads(done.stdout)["findings"]
    return done.returncode, {finding["check"]: finding["text"] for finding in findings if finding["severity"] == "fault"}


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A proxy that cuts a stream resets its connection."""


server = Server(("127.0.0.1", 0), Unguarded)
threading.Thread(target=server.serve_forever, daemon=True).start()
UNGUARDED = f"127.0.0.1:{server.server_port}"


def good(name):
    with running(name, DEMO) as port:
        # caddy 2.6 ends a stream cleanly whose server broke it
        expected = {"laundered"} if name == "caddy" else set()
        # A proxy that buffers does so each time; a doctor that gets no processor for a second is another matter.
        for _ in range(3):
            code, faults = doctor(f"http://127.0.0.1:{port}/events?count=12&interval_ms=250")
            if set(faults) - expected != {"buffered"}:
                break
        check(f"{name}: no false alarm", set(faults) <= expected and code == len(faults), faults)


def idle(name):
    with running(name, UNGUARDED, idle=2) as port:
        code, faults = doctor(f"http://127.0.0.1:{port}/silent", "--for", "1s", "--idle", "5s")
        check(f"{name}: an idle stream is cut", "idle_cut" in faults and code == 1, faults)


def buffering(name):
    with running(name, UNGUARDED) as port:
        url = f"http://127.0.0.1:{port}"
        code, faults = doctor(f"{url}/paced", "--broken", f"{url}/broken")
        check(f"{name}: buffered, and a cut looks like the end", {"buffered", "laundered"} <= set(faults), faults)


def zipping(name):
    with running(name, UNGUARDED, hard=True) as port:
        code, faults = doctor(f"http://127.0.0.1:{port}/paced")
        check(f"{name} with gzip: compressed and held back", "compressed" in faults, faults)


equal("directly: no fault", doctor(f"{DEMO_URL}/events"), (0, {}))
# Each mostly waits.
with concurrent.futures.ThreadPoolExecutor() as pool:
    jobs = [pool.submit(good, name) for name in PROXIES]
    jobs += [pool.submit(idle, name) for name in ALL]
    jobs += [pool.submit(buffering, "nginx over HTTP/1.0"), pool.submit(zipping, "nginx")]
    for job in jobs:
        job.result()
