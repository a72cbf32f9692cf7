"""Serves a short stream in each dialect, with heartbeats of one form in it: /FORM/ids|no-ids/.."""

import contextlib
import http.server
import json
import threading
import time

# What is written between two events, by the name that the table has for it.
FORMS = {
    "none": "",
    "`:`, blank line (axum)": ":\n\n",
    "`comment()`": ": heartbeat\n\n",
    "`comment_alone()`": ": heartbeat\n",
    "`ping()`": 'event: ping\ndata: {"type":"ping"}\n\n',
    "`retry:` of its own": "retry: 3000\n\n",
}
TEXTS = ["a", "b", "c"]


def data(value: object, event: str | None = None) -> list[str]:
    return [*([f"event: {event}"] if event else []), f"data: {value if isinstance(value, str) else json.dumps(value)}"]


def openai() -> tuple[list, list, list]:
    def chunk(delta, finish=None):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return data({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})

    return [], [chunk({"content": text}) for text in TEXTS], [chunk({}, "stop"), data("[DONE]")]


def anthropic() -> tuple[list, list, list]:
    def typed(kind, **more):
        return data({"type": kind, **more}, kind)

    message = {
        "id": "1", "type": "message", "role": "assistant", "content": [], "model": "m", "stop_reason": None,
        "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    start = [
        typed("message_start", message=message),
        typed("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    ]
    deltas = [typed("content_block_delta", index=0, delta={"type": "text_delta", "text": text}) for text in TEXTS]
    end = [
        typed("content_block_stop", index=0),
        typed("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 3}),
        typed("message_stop"),
    ]
    return start, deltas, end


def gemini() -> tuple[list, list, list]:
    def chunk(text, **more):
        return data({"candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": text}]}, **more}]})

    return [], [chunk("a"), chunk("b"), chunk("c", finishReason="STOP")], []


def vercel() -> tuple[list, list, list]:
    deltas = [data({"type": "text-delta", "id": "1", "delta": text}) for text in TEXTS]
    start = [data({"type": "start"}), data({"type": "text-start", "id": "1"})]
    return start, deltas, [data({"type": "text-end", "id": "1"}), data({"type": "finish"}), data("[DONE]")]


def plain() -> tuple[list, list, list]:
    return [], [data(text) for text in TEXTS], []


def mcp(request: dict) -> tuple[list, list, list]:
    def message(**more):
        return data({"jsonrpc": "2.0", **more}, "message")

    if request["method"] == "initialize":
        result = {
            "protocolVersion": request["params"]["protocolVersion"],
            "capabilities": {"tools": {}, "logging": {}},
            "serverInfo": {"name": "s", "version": "1"},
        }
        return [], [], [message(id=request["id"], result=result)]
    if request["method"] == "tools/list":
        return [], [], [message(id=request["id"], result={"tools": [{"name": "t", "inputSchema": {"type": "object"}}]})]
    logs = [message(method="notifications/message", params={"level": "info", "data": text}) for text in TEXTS[:2]]
    result = {"content": [{"type": "text", "text": TEXTS[2]}], "isError": False}
    return [], [*logs, message(id=request["id"], result=result)], []


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path.endswith("/page"):
            self.answer(200, "text/html", b"<!doctype html>")
        elif self.path.endswith("/events"):
            self.stream(None)
        else:
            self.answer(405 if self.path.endswith("/mcp") else 404, "text/plain", b"")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}")
        if self.path.endswith("/mcp") and "id" not in body:
            self.answer(202, "text/plain", b"")
        else:
            self.stream(body)

    def do_DELETE(self):
        self.answer(200, "text/plain", b"")

    def answer(self, status, content_type, body):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, body):
        _, form, ids, path = self.path.split("/", 3)
        heartbeat = list(FORMS.values())[int(form)]
        if "chat/completions" in path:
            start, events, end = openai()
        elif "messages" in path:
            start, events, end = anthropic()
        elif "GenerateContent" in path:
            start, events, end = gemini()
        elif path.endswith("ui"):
            start, events, end = vercel()
        elif path.endswith("mcp"):
            start, events, end = mcp(body)
        else:
            start, events, end = plain()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("x-vercel-ai-ui-message-stream", "v1")
        self.send_header("Connection", "close")
        self.end_headers()
        number = 0

        def send(lines):
            nonlocal number
            number += 1
            stamp = [f"id: {number}"] if ids == "ids" else []
            write("\n".join([*lines, *stamp, "", ""]))

        def write(text):
            with contextlib.suppress(ConnectionError):
                self.wfile.write(text.encode())
                self.wfile.flush()
            # a write of its own for each
            time.sleep(0.002)

        for lines in start:
            send(lines)
        for index, lines in enumerate(events):
            if heartbeat and (index > 0 or ids != "ids"):
                write(heartbeat)
            send(lines)
        for lines in end:
            send(lines)


def serve() -> str:
    """Serves from a thread, and gives the address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def targets(address: str) -> list[tuple[str, str, str]]:
    """Form, `ids` or `no-ids`, and where both are served."""
    return [
        (name, ids, f"{address}/{index}/{ids}")
        for index, name in enumerate(FORMS)
        for ids in ("no-ids", "ids")
    ]
