// The peers of npm, with the routes of `peers serve`: node server.mjs bare|resumable-stream|durable-streams
// Prints its address. REDIS_URL names the Redis of resumable-stream.
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";

const kind = process.argv[2];
const now = () => process.hrtime.bigint();

// Producers wait for POST /go with their first event, and with `hold` for POST /end with their end.
let phase = "wait";
let waiting = [];
function to(next) {
  phase = next;
  const woken = waiting;
  waiting = [];
  for (const wake of woken) wake();
}
async function until(...phases) {
  while (!phases.includes(phase)) await new Promise((wake) => waiting.push(wake));
}

// The same payload as that of `peers serve`: a server-sent event of 64 bytes.
async function* payloads(ask) {
  const [count, interval] = [Number(ask.get("count")), Number(ask.get("interval_us") ?? 0) / 1000];
  await until("go", "end");
  const start = performance.now();
  for (let n = 1; n <= count; n++) {
    if (interval > 0) {
      const wait = start + (n - 1) * interval - performance.now();
      if (wait > 0) await new Promise((wake) => setTimeout(wake, wait));
    }
    yield `@${n},${now()}@`.padEnd(56, ".");
  }
  if (ask.get("hold") === "1") await until("end");
}

async function* events(ask) {
  for await (const payload of payloads(ask)) yield `data: ${payload}\n\n`;
}

async function respond(response, stream, headers = {}) {
  response.writeHead(200, { "content-type": "text/event-stream", ...headers });
  response.flushHeaders();
  for await (const chunk of stream) {
    if (response.destroyed) return;
    if (!response.write(chunk)) await Promise.race([once(response, "drain"), once(response, "close")]);
  }
  response.end();
}

const kinds = {
  async bare() {
    return { open: (url, response) => respond(response, events(url.searchParams)) };
  },

  async "resumable-stream"() {
    const { createResumableStreamContext } = await import("resumable-stream");
    const { createClient } = await import("redis");
    // The clients that the package makes itself have no listener for errors, so a lost connection ends the process.
    const connect = () => createClient({ url: process.env.REDIS_URL }).on("error", () => {}).connect();
    const [publisher, subscriber] = await Promise.all([connect(), connect()]);
    const context = createResumableStreamContext({ waitUntil: () => {}, publisher, subscriber });
    return {
      async open(url, response) {
        const id = randomUUID();
        const stream = await context.createNewResumableStream(id, () => ReadableStream.from(events(url.searchParams)));
        await respond(response, stream, { "stream-id": id });
      },
      async read(id, url, response) {
        const stream = await context.resumeExistingStream(id, Number(url.searchParams.get("after") ?? 0));
        if (stream) return respond(response, stream);
        // null: the stream has ended. undefined: there was none.
        response.writeHead(stream === null ? 204 : 404).end();
      },
    };
  },

  async "durable-streams"() {
    const { DurableStreamTestServer } = await import("@durable-streams/server");
    const server = new DurableStreamTestServer({ port: 0, host: "127.0.0.1", compression: false });
    await server.start();
    return {
      // The producer appends in the process of the server: one over HTTP would send a request for each event.
      async open(url, response) {
        const path = `/v1/stream/${randomUUID()}`;
        server.store.create(path, { contentType: "text/plain" });
        response.writeHead(200, { location: `${server.url}${path}?offset=-1&live=sse` }).end();
        const encoder = new TextEncoder();
        for await (const payload of payloads(url.searchParams)) server.store.append(path, encoder.encode(payload));
        server.store.closeStream(path);
      },
    };
  },
};

const { open, read } = await kinds[kind]();
const server = createServer(async (request, response) => {
  const url = new URL(request.url, "http://localhost");
  const [, first, id] = url.pathname.split("/");
  try {
    if (request.method === "POST") {
      to(first);
      response.end();
    } else if (first === "stream") {
      await open(url, response);
    } else {
      await read(id, url, response);
    }
  } catch (error) {
    console.error(error);
    response.destroy();
  }
});
server.listen(0, "127.0.0.1", () => console.log(`127.0.0.1:${server.address().port}`));
