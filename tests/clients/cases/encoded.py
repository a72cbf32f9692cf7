"""Compressed and coalesced streams in lock-step: curl, httpx and the OpenAI SDK, directly and behind proxies, read each chunk before
the server makes the next one. A chunk that is held back anywhere is never read, and its check fails after a timeout."""
# debian: curl nginx-light

import json
import os
import selectors
import subprocess
import urllib.parse
import urllib.request
import uuid

import httpx
import openai
from check import check, equal
from proxies import running

SERVER = os.environ["DIALECTS_URL"]
CODINGS = ["gzip", "br", "zstd"]
# seconds; only a chunk that is held back takes as long
PATIENCE = 15


class Lockstep:
    """One stream, and what its reader has read."""

    def __init__(self, base: str = SERVER) -> None:
        self.key = uuid.uuid4().hex
        self.base = f"{base}/lockstep/{self.key}"
        self.url = f"{self.base}/events"
        self.read: list[str] = []
        self.coding: str | None = None

    def line(self, line: str) -> None:
        if line.startswith("data: {"):
            self.content(json.loads(line[6:])["choices"][0]["delta"]["content"])

    def content(self, content: str) -> None:
        """A chunk was read: the next one may be made."""
        self.read.append(content)
        request = urllib.request.Request(f"{SERVER}/next/{self.key}", method="POST")
        urllib.request.urlopen(request, timeout=PATIENCE).close()

    def verify(self, who: str, coding: str | None) -> None:
        """`None`: a coding, whichever the client prefers."""
        equal(f"{who}: every chunk was readable before the next was made", self.read, [str(n) for n in range(10)])
        if coding is None:
            check(f"{who}: the stream was encoded", self.coding in CODINGS, self.coding)
        else:
            equal(f"{who}: the stream was {coding}", self.coding, coding)


def curl(who: str, coding: str, base: str, *options: str) -> None:
    stream = Lockstep(base)
    command = ["curl", "-sSN", "-D", "/dev/stderr", *options, stream.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        selector = selectors.DefaultSelector()
        selector.register(process.stdout, selectors.EVENT_READ)
        text = b""
        while selector.select(PATIENCE) and (data := os.read(process.stdout.fileno(), 65536)):
            *lines, text = (text + data).split(b"\n")
            for line in lines:
                stream.line(line.decode())
        process.kill()
        for line in process.stderr.read().decode().lower().splitlines():
            if line.startswith("content-encoding: "):
                stream.coding = line.split()[1]
    stream.verify(who, coding)


def with_httpx(who: str, coding: str, base: str, **settings: bool) -> None:
    stream = Lockstep(base)
    try:
        with httpx.Client(timeout=PATIENCE, **settings) as client:
            with client.stream("GET", stream.url, headers={"accept-encoding": coding}) as response:
                stream.coding = response.headers.get("content-encoding")
                for line in response.iter_lines():
                    stream.line(line)
    except httpx.HTTPError as error:
        check(f"{who}: the stream ends well", False, repr(error))
    stream.verify(who, coding)


def sdk(who: str, base: str) -> None:
    stream = Lockstep(base)
    client = openai.OpenAI(base_url=stream.base, api_key="unused", max_retries=0, timeout=PATIENCE)
    ask = client.chat.completions.with_raw_response.create
    response = ask(model="m", messages=[{"role": "user", "content": "Count"}], stream=True)
    stream.coding = response.headers.get("content-encoding")
    try:
        for chunk in response.parse():
            stream.content(chunk.choices[0].delta.content)
    except (openai.APIError, httpx.HTTPError) as error:
        check(f"{who}: the stream ends well", False, repr(error))
    stream.verify(who, None)


# what each says it accepts by itself, with every decoder that it has
curl("curl --compressed", "zstd", SERVER, "--compressed")
for coding in CODINGS:
    only = ("--compressed", "-H", f"accept-encoding: {coding}")
    curl(f"curl, {coding}", coding, SERVER, *only)
    curl(f"curl, {coding}, HTTP/2", coding, SERVER, *only, "--http2-prior-knowledge")
    with_httpx(f"httpx, {coding}", coding, SERVER)
    with_httpx(f"httpx, {coding}, HTTP/2", coding, SERVER, http1=False, http2=True)
sdk("openai", SERVER)

for kind in ("nginx over HTTP/1.0", "nginx", "envoy"):
    with running(kind, urllib.parse.urlsplit(SERVER).netloc) as port:
        proxy = f"http://127.0.0.1:{port}"
        for coding in CODINGS:
            curl(f"curl behind {kind}, {coding}", coding, proxy, "--compressed", "-H", f"accept-encoding: {coding}")
        with_httpx(f"httpx behind {kind}", "gzip", proxy)
        sdk(f"openai behind {kind}", proxy)
