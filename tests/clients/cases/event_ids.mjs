// npm eventsource-client: what it sends as Last-Event-ID when a stream of the demo breaks is the id of the last event that
// it was given. A proxy between the two cuts the first connection in the middle of an event and keeps what it was sent.
import http from 'node:http';

import { createEventSource } from 'eventsource-client';

import { DEMO_URL, check, equal } from '../lib/check.mjs';

const CUT_AFTER = 3; // events, and half of the next

const requests = [];
const proxy = http.createServer((request, response) => {
  requests.push({ lastEventId: request.headers['last-event-id'] });
  const first = requests.length === 1;
  const headers = { ...request.headers, host: new URL(DEMO_URL).host };
  http.get(`${DEMO_URL}${request.url}`, { headers }, (upstream) => {
    requests.at(-1).requestId = upstream.headers['x-request-id'];
    response.writeHead(upstream.statusCode, upstream.headers);
    let events = 0;
    upstream.on('data', (chunk) => {
      if (first && events === CUT_AFTER) {
        response.write(chunk.subarray(0, chunk.length / 2), () => response.destroy());
        upstream.destroy();
        return;
      }
      response.write(chunk);
      events += 1;
    });
    upstream.on('end', () => response.end());
    upstream.on('error', () => response.destroy());
  });
});
await new Promise((listening) => proxy.listen(0, '127.0.0.1', listening));

const seen = [];
await new Promise((done) => {
  const source = createEventSource({
    url: `http://127.0.0.1:${proxy.address().port}/events?count=5&interval_ms=40`,
    onMessage: ({ id, data }) => {
      seen.push([id, JSON.parse(data).n]);
      if (seen.length === CUT_AFTER + 5) {
        source.close();
        done();
      }
    },
  });
});
proxy.close();
proxy.closeAllConnections();

equal(
  'each event has its number in the stream as its id',
  seen,
  [1, 2, 3, 1, 2, 3, 4, 5].map((id) => [`${id}`, id - 1]),
);
equal('the first connection has no Last-Event-ID', requests[0].lastEventId, undefined);
equal('the second has the id of the last whole event', requests[1].lastEventId, `${CUT_AFTER}`);
check('each connection is a request of its own', requests[0].requestId && requests[0].requestId !== requests[1].requestId,
  JSON.stringify(requests));
