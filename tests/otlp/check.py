"""What a real OTLP receiver reports of the demo server's streams, under load and with failures."""

import collections
import os

from demo import Demo
from receiver import Receiver, Span, free_port

SCRATCH = os.environ["SCRATCH"]
CHUNK = "http.server.response.chunk"
ASK = '{"model": "alice-x", "stream": true, "max_tokens": 8, "messages": [{"role": "user", "content": "Who?"}]}'
passed = failed = 0


def check(what: str, good: bool, why: object = "") -> None:
    global passed, failed
    if good:
        passed += 1
        print(f"ok - {what}", flush=True)
    else:
        failed += 1
        print(f"not ok - {what}: {why}", flush=True)


def equal(what: str, got: object, wanted: object) -> None:
    check(what, got == wanted, f"got {got!r}, wanted {wanted!r}")


def drive(demo: Demo) -> None:
    """Whole streams and broken ones, over HTTP/1.1 and 2, one by one and many at once."""
    h2 = "--http2-prior-knowledge"
    trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    demo.curl("/events?count=5&interval_ms=50", "-H", trace)
    demo.curl("/lines?count=20000&interval_ms=0", h2)
    for how in ["panic-body", "error-body", "panic-handler"]:
        for options in [(), (h2,)]:
            demo.curl(f"/fail?how={how}&format=bytes&after=3", *options)
    equal("a client that leaves times out", demo.curl("/events?count=0", "-m", "0.5"), 28)
    demo.curl("/bytes?size=100000&chunk=10000", "-I")
    demo.curl("/v1/chat/completions?interval_ms=20", "-d", ASK)
    load = ["/events?count=20&interval_ms=5"] * 40 + ["/fail?how=error-body&format=bytes"] * 20
    demo.load(load)
    demo.load(load, h2)


def judge(spans: list[Span], demo: Demo, exported: int, lost: int) -> None:
    equal("the receiver has every span that the server calls exported", len(spans), exported)
    equal("the server lost none", lost, 0)
    equal("no span came twice", len({span.id for span in spans}), len(spans))
    requests = {span.id: span for span in spans if span.kind == "SPAN_KIND_SERVER"}
    chunks = [span for span in spans if span.name == CHUNK]
    equal("one request span a request", len(requests), demo.requests)
    producers = [span for span in spans if span.name == "producer"]
    check("each producer of a resumable stream has a span", len(producers) > 0, len(producers))
    equal("nothing but requests, producers and chunks", len(requests) + len(producers) + len(chunks), len(spans))

    orphans = [span for span in chunks if span.parent not in requests]
    equal("every chunk has its request for a parent", orphans, [])
    children: dict[str, list[Span]] = collections.defaultdict(list)
    for span in chunks:
        children[span.parent].append(span)
    strays = [span for span in chunks if requests[span.parent].trace != span.trace]
    equal("a chunk is in the trace of its request", strays, [])

    wrong = []
    for id, request in requests.items():
        # another head than the handler's has a body that the chunk layer does not see
        if request.get("http.response.status_code") != "200":
            continue
        mine = len(children[id])
        skipped = int(request.get("stream.chunk_spans_skipped") or 0)
        if mine + skipped != int(request.get("stream.chunks") or 0):
            wrong.append(request)
    equal("chunk spans and skipped ones are the chunks of every stream", wrong, [])

    late = [
        (before, after)
        for mine in children.values()
        for before, after in pairs(sorted(mine, key=lambda span: span.number("chunk.index")))
        if not before.start <= before.end <= after.start
    ]
    equal("chunks follow each other in time", late, [])
    types = {key: {span.attributes[key][0] for span in chunks} for key in chunks[0].attributes}
    equal(
        "attributes have their types",
        types,
        {
            "chunk.index": {"Int"},
            "chunk.length": {"Int"},
            "chunk.producer_wait": {"Double"},
            "chunk.consumer_hold": {"Double"},
            "stream.id": {"Str"},
            **({"sequence_id": {"Int"}} if "sequence_id" in types else {}),
        },
    )

    routes = collections.defaultdict(collections.Counter)
    for request in requests.values():
        routes[request.name][request.get("stream.outcome")] += 1
    print(*(f"   {name}: {dict(outcomes)}" for name, outcomes in sorted(routes.items())), sep="\n")
    equal("whole and abandoned event streams", routes["GET /events"], {"complete": 81, "aborted": 1})
    equal("failures", routes["GET /fail"], {"error": 42, "panic": 4})
    # the name of a HEAD request is its own
    equal("HEAD is complete", routes["HEAD /bytes"], {"complete": 1})
    failures = [span for span in requests.values() if span.name == "GET /fail"]
    equal("failures have the status Error", {span.status for span in failures}, {"STATUS_CODE_ERROR"})
    whole = [span for span in requests.values() if span.get("stream.outcome") != "error" and span not in failures]
    equal("the others have not", {span.status for span in whole}, {"STATUS_CODE_UNSET"})

    [traced] = [span for span in requests.values() if span.trace == "4bf92f3577b34da6a3ce929d0e0e4736"]
    equal("the client's trace goes on", traced.parent, "00f067aa0ba902b7")
    equal("its five chunks are there", len(children[traced.id]), 5)
    [long] = [span for span in requests.values() if span.name == "GET /lines"]
    check("20000 chunks are at most 128 spans", len(children[long.id]) <= 128, len(children[long.id]))
    indexes = {span.number("chunk.index") for span in children[long.id]}
    check("the last one is among them", long.number("stream.chunks") - 1 in indexes, indexes)


    [chat] = [span for span in requests.values() if span.name == "POST /v1/chat/completions"]
    tokens = sorted(children[chat.id], key=lambda span: span.number("chunk.index"))
    words = ["gen_ai.operation.name", "gen_ai.request.model"]
    equal(
        "every token names operation and model",
        {tuple(span.get(word) for word in words) for span in tokens},
        {("chat", "alice-x")},
    )
    equal("the tokens are of one answer", len({span.get("gen_ai.response.id") for span in tokens}), 1)
    first, later = "gen_ai.server.time_to_first_token", "gen_ai.server.time_per_output_token"
    timed = [[word for word in (first, later) if span.get(word)] for span in tokens]
    # a role, eight tokens, why it ended, the end
    equal("the first token and each later one have their time", timed, [[first], *[[later]] * 10])
    equal("so has the request", chat.get(first), tokens[0].get(first))
    named = [span for span in spans if any(key.startswith("gen_ai.") for key in span.attributes)]
    equal("no other stream is one of tokens", len(named), len(tokens) + 1)


def pairs(spans: list[Span]) -> list[tuple[Span, Span]]:
    return list(zip(spans, spans[1:]))


def traces() -> None:
    with Receiver(SCRATCH) as receiver:
        demo = Demo(receiver.url, SCRATCH)
        drive(demo)
        account = demo.metrics()
        fates = account["exported"] + account["dropped"] + account["in_queue"]
        equal("/metrics: emitted is exported, dropped and in the queue", account["emitted"], fates)
        code, exported, lost, _ = demo.stop()
        equal("the demo server ends well", code, 0)
        spans = receiver.spans(exported)
        judge(spans, demo, exported, lost)


def nobody_listens() -> None:
    demo = Demo(f"http://127.0.0.1:{free_port()}", SCRATCH)
    demo.load(["/events?count=10&interval_ms=1"] * 20)
    code, exported, lost, took = demo.stop()
    equal("without a receiver the demo server still ends well", code, 0)
    equal("and says that it exported nothing", exported, 0)
    equal("and that every span is lost", lost, 20 * 11)
    check("and does not wait for ever", took < 30, f"{took} s")


traces()
nobody_listens()
print(f"{passed} passed, {failed} failed")
raise SystemExit(failed > 0)
