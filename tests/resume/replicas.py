"""Two demo servers that share a store: a stream that began on one goes on at the other."""

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore

from stores import STORES

DEMO, STORE = sys.argv[1:]
passed = failed = 0


def check(what, good, why=""):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print(f"ok - {what}" if good else f"not ok - {what}: {why}", flush=True)


class Server:
    def __init__(self, url, *arguments):
        command = [DEMO, "--public", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--resume", url, *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = self.process.stdout.readline()
        self.last_id = None
        self.address = dict(pair.split("=") for pair in line.split()[1:])["public"]

    def read(self, events, last=None, path="/story?words=100&interval_ms=20", begun=lambda: None):
        """At most so many events, as (id, event, data), and the status. The connection is cut then. Calls `begun` with the first event."""
        host, _, port = self.address.partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        connection.request("GET", path, headers={"Last-Event-ID": last} if last else {})
        response = connection.getresponse()
        found, fields = [], {}
        while len(found) < events and (line := response.readline().decode()):
            name, _, value = line.rstrip("\n").partition(": ")
            if name:
                fields[name] = value
                self.last_id = fields.get("id") or self.last_id
            elif "data" in fields:
                found.append((fields.get("id"), fields.get("event"), json.loads(fields["data"])))
                fields = {}
                if len(found) == 1:
                    begun()
        connection.close()
        return response.status, found


def drained(url, other):
    """Readers of a server that is drained, each with the events it gets there, and then from the other one."""
    server = Server(url, "--advertise", "0")
    path = "/story?words=125&interval_ms=20"
    try:
        with ThreadPoolExecutor(READERS + 1) as pool:
            reading = [pool.submit(server.read, 1000, path=path) for _ in range(READERS)]
            pool.submit(server.read, 1, path=path).result()
            server.process.send_signal(signal.SIGTERM)
            stories = [reader.result()[1] for reader in reading]
        for story in stories:
            if story and story[-1][1] == "drain":
                last = [event[0] for event in story if event[0]][-1]
                yield story, other.read(1000, last, path)[1]
            else:
                yield story, []
    finally:
        server.process.kill()
        server.process.wait()


def disconnected(store, one, two):
    """The events of readers at the other server than their producer's, while the store closes all connections."""
    path = "/story?words=200&interval_ms=20"
    reads = Semaphore(0)
    with ThreadPoolExecutor(READERS) as pool:
        firsts = list(pool.map(lambda _: one.read(1, path=path)[1], range(READERS)))
        reading = [pool.submit(two.read, 1000, first[-1][0], path, reads.release) for first in firsts]
        for _ in reading:
            reads.acquire(timeout=60)
        store.disconnect()
        return [first + reader.result()[1] for first, reader in zip(firsts, reading)]


# Each leaves at a random time of ten seconds, and its story takes two and a half.
READERS = 60

with tempfile.TemporaryDirectory() as scratch:
    store = STORES[STORE](scratch)
    one, two = Server(store.url), Server(store.url)
    try:
        _, first = one.read(30)
        last = first[-1][0]
        status, rest = two.read(1000, last)
        stories = [data for _, event, data in first + rest if event is None]
        check("the other server goes on where the first was", [story["n"] for story in stories] == list(range(100)), stories[-3:])
        check("the handler ran once", len({story["run"] for story in stories}) == 1)
        # The id of the end comes in a block without data.
        status, _ = two.read(1, two.last_id)
        check("at the end there is nothing more", status == 204, status)

        numbers = lambda events: [data["n"] for _, event, data in events if event is None]
        if STORE == "redis":
            wrong = [events[-1:] for events in disconnected(store, one, two) if numbers(events) != list(range(200))]
            check("readers at another server notice nothing when all connections to the store are closed", not wrong, (len(wrong), wrong[:1]))

        readers = list(drained(store.url, two))
        wrong = [numbers(here + there) for here, there in readers if numbers(here + there) != list(range(125))]
        check("readers of a server that drains lose nothing", not wrong, wrong[:2])
        moved = [there for here, there in readers if there]
        check("some are sent to another server, and go on there", moved, len(readers))
        check("their streams end there as complete", all(event is None for there in moved for _, event, _ in there), moved[:1])

        _, first = one.read(20)
        last = first[-1][0]
        one.process.send_signal(signal.SIGKILL)
        one.process.wait()
        status, rest = two.read(1000, last)
        numbers = [data["n"] for _, event, data in first + rest if event is None]
        check("of a server that was killed, nothing stored is lost or doubled", numbers == list(range(len(numbers))), numbers)
        check("the reader is told that the producer is lost", "producer_lost" in json.dumps(rest[-1]), rest[-1])
    finally:
        for process in (one.process, two.process, store.process):
            process.kill()
            process.wait()
print(f"{passed} passed, {failed} failed")
sys.exit(bool(failed))
