"""A real OTLP receiver (rotel) as a process, and the spans that it reports."""

import glob
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field


@dataclass
class Span:
    """One span, as the receiver prints it."""

    trace: str = ""
    parent: str = ""
    id: str = ""
    name: str = ""
    kind: str = ""
    start: int = 0
    end: int = 0
    status: str = ""
    # name -> (type, text)
    attributes: dict[str, tuple[str, str]] = field(default_factory=dict)

    def get(self, key: str) -> str | None:
        return self.attributes.get(key, ("", None))[1]

    def number(self, key: str) -> float:
        return float(self.attributes[key][1])


FIELDS = {
    "Trace ID": "trace",
    "Parent ID": "parent",
    "ID": "id",
    "Name": "name",
    "Kind": "kind",
    "Status code": "status",
}
FIELD = re.compile(r"^ *([A-Za-z ]+?) *: ?(.*)$")
ATTRIBUTE = re.compile(r"^ +-> ([^:]+): (\w+)\((.*)\)$")


def parse(text: str) -> list[Span]:
    spans: list[Span] = []
    span: Span | None = None
    for line in text.splitlines():
        if line.startswith("Span #"):
            span = Span()
            spans.append(span)
        elif line.lstrip().startswith(("ResourceSpans", "ScopeSpans #", "SpanEvent #", "SpanLink #")):
            span = None
        elif span is None:
            continue
        elif found := ATTRIBUTE.match(line):
            span.attributes[found[1]] = (found[2], found[3])
        elif found := FIELD.match(line):
            name, value = found[1].strip(), found[2].strip()
            if name in FIELDS:
                setattr(span, FIELDS[name], value)
            elif name == "Start time":
                span.start = int(value)
            elif name == "End time":
                span.end = int(value)
    return spans


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Receiver:
    """rotel, printing every span that it receives. Stopped on exit."""

    def __init__(self, scratch: str) -> None:
        binary = glob.glob(f"{sys.prefix}/lib/python*/site-packages/rotel/rotel-agent")[0]
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.path = os.path.join(scratch, "receiver.log")
        command = [binary, "start", "--exporter", "blackhole"]
        command += ["--otlp-http-endpoint", f"127.0.0.1:{port}"]
        command += ["--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}"]
        command += ["--debug-log", "traces", "--debug-log-verbosity", "detailed"]
        command += ["--pid-file", os.path.join(scratch, "receiver.pid")]
        with open(self.path, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)
        raise RuntimeError("the receiver does not listen:\n" + open(self.path).read())

    def spans(self, count: int) -> list[Span]:
        """The spans received, once they are this many (or some seconds have passed)."""
        spans: list[Span] = []
        for _ in range(100):
            spans = parse(open(self.path, errors="replace").read())
            if len(spans) >= count:
                break
            time.sleep(0.1)
        return spans

    def __enter__(self) -> "Receiver":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)
