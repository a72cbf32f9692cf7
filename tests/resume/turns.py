"""Three demo servers that share a store: each is drained or killed in its turn, and so is the store, while many clients read.

turns.py DEMO STORE [READERS]

A client reads a story, and goes on with its last id, perhaps elsewhere, whenever its connection is lost. Half of the connections the
client cuts itself, as one in a tunnel. It must have each token once, from the
first one to the end that it is told: 204, or the loss of the server that made the story.
"""

import asyncio
import json
import random
import signal
import sys
import tempfile

from stores import STORES

DEMO, STORE, READERS = sys.argv[1], sys.argv[2], int((sys.argv[3:] or [60])[0])
WORDS = 25
passed = failed = 0


def check(what, good, why=""):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print(f"ok - {what}" if good else f"not ok - {what}: {why}", flush=True)


class Server:
    """One of the three. It is started again when it is gone."""

    async def start(self, url):
        command = [DEMO, "--public", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--resume", url]
        command += ["--advertise", "0", "--deadline", "20s"]
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        self.process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=null)
        line = (await self.process.stdout.readline()).decode()
        address = dict(pair.split("=") for pair in line.split()[1:])["public"]
        self.host, _, port = address.partition(":")
        self.port = int(port)

    async def stop(self, how):
        self.process.send_signal(how)
        return await self.process.wait()


class Reader:
    def __init__(self):
        self.numbers, self.last, self.run, self.end, self.resumed, self.sent_away = [], None, None, None, 0, 0

    async def read(self, servers):
        while self.end is None:
            server = random.choice(servers)
            try:
                await asyncio.wait_for(self.connect(server), 60)
            except (OSError, asyncio.IncompleteReadError, ValueError, IndexError):
                pass
            await asyncio.sleep(random.uniform(0.05, 0.2))

    async def connect(self, server):
        incoming, outgoing = await asyncio.open_connection(server.host, server.port)
        try:
            cursor = f"Last-Event-ID: {self.last}\r\n" if self.last else ""
            path = f"/story?words={WORDS}&interval_ms=100"
            outgoing.write(f"GET {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n{cursor}\r\n".encode())
            head = (await incoming.readuntil(b"\r\n\r\n")).decode()
            status = int(head.split()[1])
            if status == 503:
                return
            if status != 200:
                self.end = "complete" if status == 204 else f"status {status}"
                return
            if "stream-id:" not in head.lower():
                # Begun while the store was down: it says that it cannot be resumed, so it is begun anew elsewhere.
                return
            self.resumed += self.last is not None
            block = b""
            until = len(self.numbers) + random.choice([3, 9, WORDS, WORDS])
            # Whole events only: what comes after the last blank line is not taken.
            while self.end is None and len(self.numbers) < until:
                size = int((await incoming.readuntil(b"\r\n")).split(b";")[0], 16)
                block += (await incoming.readexactly(size + 2))[:-2]
                if size == 0:
                    return
                *events, block = block.split(b"\n\n")
                for event in events:
                    self.take(dict(line.partition(": ")[::2] for line in event.decode().split("\n")))
        finally:
            outgoing.close()

    def take(self, fields):
        self.last = fields.get("id", self.last)
        data = json.loads(fields["data"]) if "data" in fields else None
        if fields.get("event") == "error":
            self.end = data["error"]["kind"]
        elif fields.get("event") == "drain":
            # Sent away early, to go on elsewhere.
            self.sent_away += 1
        elif fields.get("event"):
            self.end = fields["event"]
        elif data is not None:
            self.numbers.append(data["n"])
            self.run = self.run or data["run"]
            if self.run != data["run"]:
                self.end = "another run"


async def main(scratch):
    store = STORES[STORE](scratch)
    servers = [Server() for _ in range(3)]
    try:
        await asyncio.gather(*(server.start(store.url) for server in servers))
        readers = [Reader() for _ in range(READERS)]

        async def later(reader):
            await asyncio.sleep(random.uniform(0, 2.5))
            await reader.read(servers)

        reading = asyncio.gather(*(later(reader) for reader in readers))
        await asyncio.sleep(1)
        drained = asyncio.create_task(servers[0].stop(signal.SIGTERM))
        await asyncio.sleep(0.5)
        await servers[1].stop(signal.SIGKILL)
        await servers[1].start(store.url)
        store.kill()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(store.start)
        await asyncio.sleep(0.5)
        await servers[2].stop(signal.SIGKILL)
        await servers[2].start(store.url)
        await reading
        check("the server that was drained ended by itself", await drained == 0, drained)

        ends = {}
        for reader in readers:
            ends[reader.end] = ends.get(reader.end, 0) + 1
        print(f"# {READERS} readers, resumed {sum(reader.resumed for reader in readers)} times, ends {ends}")
        whole = [reader for reader in readers if reader.numbers == list(range(len(reader.numbers)))]
        check("no token is lost or doubled", len(whole) == READERS, [r.numbers for r in readers if r not in whole][:2])
        check("each end is true", set(ends) <= {"complete", "producer_lost"}, ends)
        short = [reader for reader in readers if reader.end == "complete" and len(reader.numbers) != WORDS]
        check("a story that is said to be complete is so", not short, [r.numbers for r in short][:2])
        check("some stories went on elsewhere", any(r.resumed and r.end == "complete" for r in readers), ends)
    finally:
        for process in (*(server.process for server in servers), store.process):
            if process.returncode is None:
                process.kill()
            if isinstance(process, asyncio.subprocess.Process):
                await process.wait()


with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
    asyncio.run(main(scratch))
print(f"{passed} passed, {failed} failed")
sys.exit(bool(failed))
