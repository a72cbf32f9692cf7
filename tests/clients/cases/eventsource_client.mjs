// npm eventsource-client: /events as an EventSource sees it, its reconnection included.
import { readFileSync } from 'node:fs';

import { createEventSource } from 'eventsource-client';

import { DEMO_URL, check, equal, spread } from '../lib/check.mjs';

const manifest = new URL('../node_modules/eventsource-client/package.json', import.meta.url);
console.log(`eventsource-client ${JSON.parse(readFileSync(manifest)).version}, node ${process.version}`);

const count = 6;
const numbers = [];
const times = [];
let connections = 0;
let disconnections = 0;
await new Promise((done) => {
  const source = createEventSource({
    url: `${DEMO_URL}/events?count=${count}&interval_ms=50`,
    onConnect: () => (connections += 1),
    onDisconnect: () => (disconnections += 1),
    onMessage: ({ data }) => {
      times.push(performance.now());
      numbers.push(JSON.parse(data).n);
      // the stream ended, and the client came back for more, as EventSource does
      if (numbers.length === count + 1) {
        source.close();
        done();
      }
    },
  });
});
equal('every event, in order, and again after the reconnection', numbers, [...Array(count).keys(), 0]);
check('the first came before the last was made', spread(times.slice(0, count)) >= 125, times);
equal('the end of the stream was seen as one', [connections, disconnections], [2, 1]);
