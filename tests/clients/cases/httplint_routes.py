# httplint, the checks of redbot.org: no finding of a response of any route, or one that is explained here.
import http.client
import json
import urllib.parse

import httplint
import httplint.note
from check import DEMO_URL, check

CHAT = {"model": "demo", "max_tokens": 3, "messages": [{"role": "user", "content": "x"}]}
ROUTES = [
    ("GET", "/events?count=2&interval_ms=1", None),
    ("HEAD", "/events?count=2&interval_ms=1", None),
    ("GET", "/lines?count=2&interval_ms=1", None),
    ("GET", "/bytes?size=1000", None),
    ("GET", "/bytes?size=100000&length=0", None),
    ("GET", "/promise?size=1000", None),
    ("GET", "/promise?size=1000&corrupt=1", None),
    ("GET", "/fail?how=panic-body&after=1", None),
    ("GET", "/fail?how=panic-handler", None),
    ("GET", "/fail?how=error-first&format=json", None),
    ("GET", "/files/small.txt", None),
    ("GET", "/files/none", None),
    ("GET", "/whoami", None),
    ("GET", "/v1/models", None),
    ("GET", "/events?count=x", None),
    ("GET", "/nowhere", None),
    ("DELETE", "/events", None),
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/chat/completions?interval_ms=1", {**CHAT, "stream": True}),
]
# What httplint says and is no fault, by the name of its note.
EXPLAINED = {
    # A stream has no validator, and `no-store` is for the handler to say: `no-cache` is what a cache must not answer without.
    "FRESHNESS_NO_CACHE_NO_VALIDATOR",
    # The handler says nothing of caching. That is for the handler to know.
    "FRESHNESS_HEURISTIC",
    # A resumable stream is `no-store, private` for its one reader, and `no-transform` for what no-store does not concern: proxies.
    "CC_CONFLICTING",
    # A 400 it is.
    "STATUS_BAD_REQUEST",
}

host = urllib.parse.urlsplit(DEMO_URL).netloc
for method, path, body in ROUTES:
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"} if body else {})
    response = connection.getresponse()
    linter = httplint.HttpResponseLinter(no_content=method == "HEAD")
    linter.process_response_topline(b"HTTP/1.1", str(response.status).encode(), response.reason.encode())
    linter.process_headers([(name.encode(), value.encode()) for name, value in response.headers.items()])
    if method != "HEAD":
        linter.feed_content(response.read())
    linter.finish_content(True)
    connection.close()
    bad = (httplint.note.levels.WARN, httplint.note.levels.BAD)
    found = [note for note in linter.notes if note.level in bad and type(note).__name__ not in EXPLAINED]
    check(f"{method} {path}", not found, [f"{type(note).__name__}: {note.summary}" for note in found])
