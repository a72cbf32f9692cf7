// npm eventsource (the browser's interface): a stream that fails gives one `error` event with data.
import { readFileSync } from 'node:fs';

import { EventSource } from 'eventsource';

import { DEMO_URL, check, equal } from '../lib/check.mjs';

const manifest = new URL('../node_modules/eventsource/package.json', import.meta.url);
console.log(`eventsource ${JSON.parse(readFileSync(manifest)).version}, node ${process.version}`);

for (const [how, kind] of [['panic-body', 'panic'], ['error-body', 'internal'], ['producer-panic', 'panic'], ['hang', 'timeout']]) {
  const numbers = [];
  const told = await new Promise((done) => {
    const source = new EventSource(`${DEMO_URL}/fail?how=${how}&after=3&interval_ms=20`);
    source.onmessage = ({ data }) => numbers.push(JSON.parse(data).n);
    source.onerror = (event) => {
      // the connection's own `error` events have no data
      source.close();
      done(event.data);
    };
  });
  equal(`${how}: every event before the failure`, numbers, [0, 1, 2]);
  equal(`${how}: the error event names its kind`, told && JSON.parse(told).error.kind, kind);
  check(`${how}: and says nothing of what happened inside`, !String(told).includes('asked to'), told);
}
