"""An HTTP/2 client that can also do what clients should not."""

import select
import socket
import ssl

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset

from demo import PATIENCE, Address


class H2Client:
    def __init__(self, address: Address, tls: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection(address, PATIENCE)
        if tls:
            tls.set_alpn_protocols(["h2"])
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.connection = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.connection.initiate_connection()
        self.goaway: int | None = None
        self.status: dict[int, str] = {}
        self.body: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.reset: dict[int, int] = {}
        # Streams whose windows this client does not open again, and neither that of the connection for them.
        self.unread: set[int] = set()
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.connection.data_to_send())

    def headers(self, path: str) -> list[tuple[str, str]]:
        return [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", path)]

    def begin(self, path: str) -> int:
        stream = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream, self.headers(path), end_stream=True)
        self.body[stream] = b""
        self.flush()
        return stream

    def get(self, path: str) -> bytes:
        """The whole body."""
        stream = self.begin(path)
        while stream not in self.ended:
            if stream in self.reset or not self.step():
                raise RuntimeError(f"stream {stream} was aborted, GOAWAY {self.goaway}")
        return self.body[stream]

    def step(self, seconds: float = PATIENCE) -> bool:
        """Reads once, if something comes; whether the connection is still open."""
        pending = isinstance(self.socket, ssl.SSLSocket) and self.socket.pending()
        if not pending and not select.select([self.socket], [], [], seconds)[0]:
            return True
        data = self.socket.recv(65536)
        for event in self.connection.receive_data(data) if data else []:
            match event:
                case ResponseReceived():
                    self.status[event.stream_id] = dict(event.headers)[":status"]
                case DataReceived():
                    self.body[event.stream_id] += event.data
                    if event.stream_id not in self.unread:
                        self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case StreamEnded():
                    self.ended.add(event.stream_id)
                case StreamReset():
                    self.reset[event.stream_id] = event.error_code
                case ConnectionTerminated():
                    self.goaway = event.error_code
        if self.goaway is None:
            self.flush()
        return bool(data)

    def close(self) -> None:
        self.socket.close()
