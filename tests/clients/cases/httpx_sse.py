"""httpx-sse: /events as parsed events, over HTTP/1.1 and HTTP/2."""

import json

import httpx
from httpx_sse import connect_sse

from check import DEMO_URL, Arrivals, check, equal

print(f"httpx {httpx.__version__}")

for version, settings in [("HTTP/1.1", {}), ("HTTP/2", {"http1": False, "http2": True})]:
    with httpx.Client(timeout=20, **settings) as client:
        arrivals, numbers = Arrivals(), []
        query = {"count": 10, "interval_ms": 50, "bytes": 20}
        with connect_sse(client, "GET", f"{DEMO_URL}/events", params=query) as source:
            equal(f"{version} is spoken", source.response.http_version, version)
            for event in source.iter_sse():
                arrivals.note()
                numbers.append(json.loads(event.data)["n"])
        equal(f"{version}: every event, in order", numbers, list(range(10)))
        check(f"{version}: the first came before the last was made", arrivals.spread_ms >= 225, arrivals.spread_ms)

        try:
            cut = client.get(f"{DEMO_URL}/fail", params={"how": "error-body", "format": "bytes"})
            check(f"{version}: a failed stream raises", False, f"{len(cut.content)} bytes without an error")
        except httpx.RemoteProtocolError:
            check(f"{version}: a failed stream raises", True)
