"""PyPI's h2, a protocol library of its own: trailers after the data, RST_STREAM instead of a broken promise."""

import hashlib
import os
import pathlib
import socket
import urllib.parse

import h2
import h2.config
import h2.connection
import h2.events
from check import DEMO_URL, check, equal

print(f"h2 {h2.__version__}")
ADDRESS = urllib.parse.urlsplit(DEMO_URL)


class Answer:
    """One response, frame by frame."""

    def __init__(self, path: str) -> None:
        self.headers: dict[str, str] = {}
        self.trailers: dict[str, str] = {}
        self.body = b""
        self.reset: int | None = None
        self.ended = False
        config = h2.config.H2Configuration(header_encoding="utf-8")
        connection = h2.connection.H2Connection(config)
        with socket.create_connection((ADDRESS.hostname, ADDRESS.port), timeout=20) as stream:
            connection.initiate_connection()
            pseudo = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", ADDRESS.netloc)]
            connection.send_headers(1, pseudo, end_stream=True)
            stream.sendall(connection.data_to_send())
            while not self.ended and self.reset is None:
                data = stream.recv(65536)
                if not data:
                    break
                for event in connection.receive_data(data):
                    self.see(connection, event)
                stream.sendall(connection.data_to_send())

    def see(self, connection: h2.connection.H2Connection, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived():
                self.headers = dict(event.headers)
            case h2.events.TrailersReceived():
                self.trailers = dict(event.headers)
            case h2.events.DataReceived():
                self.body += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.ended = True
            case h2.events.StreamReset():
                self.reset = event.error_code


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


expected = md5(pathlib.Path(os.environ["SERVED_FILES"], "random.bin").read_bytes())
whole = Answer("/files/random.bin")
equal("a file arrives whole", (whole.ended, md5(whole.body)), (True, expected))
equal("with its length", whole.headers.get("content-length"), "3000000")
equal("and its digest in the trailers", whole.trailers.get("x-content-md5"), expected)

short = Answer("/bytes?size=100")
equal("a short body has its digest in the head", short.headers.get("x-content-md5"), md5(short.body))

for length in (0, 1):
    kept = Answer(f"/promise?size=1000000&length={length}")
    equal(f"a kept promise, length={length}", (kept.ended, kept.headers.get("x-content-md5")), (True, md5(kept.body)))
    broken = Answer(f"/promise?size=1000000&length={length}&corrupt=1")
    equal(f"a broken promise is RST_STREAM(INTERNAL_ERROR), length={length}", (broken.ended, broken.reset), (False, 2))
    check(f"the last bytes were withheld, length={length}", length == 0 or len(broken.body) < 1000000, len(broken.body))
equal("broken and short is a 502", Answer("/promise?size=1000&corrupt=1").headers.get(":status"), "502")
