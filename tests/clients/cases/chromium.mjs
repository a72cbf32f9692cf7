// Headless Chromium's own EventSource and fetch, driven by playwright-core.
// debian: chromium
import { DEMO_URL, check, equal, spread } from '../lib/check.mjs';
import { emptyPage, launch } from '../lib/chromium.mjs';

const browser = await launch();
console.log(`chromium ${browser.version()}`);
// EventSource needs no CORS in a page of the demo's origin.
const page = await emptyPage(browser, DEMO_URL);

// a finite stream: live, in order, and the browser comes back by itself when it has ended
const count = 6;
const live = await page.evaluate(
  ({ count }) =>
    new Promise((done) => {
      const source = new EventSource(`/events?count=${count}&interval_ms=150`);
      const seen = { numbers: [], times: [], opened: 0, errors: 0, lastIds: [] };
      source.onopen = () => (seen.opened += 1);
      source.onerror = () => (seen.errors += 1);
      source.onmessage = (event) => {
        seen.times.push(performance.now());
        seen.numbers.push(JSON.parse(event.data).n);
        seen.lastIds.push(event.lastEventId);
        if (seen.numbers.length === count + 1) {
          source.close();
          done(seen);
        }
      };
    }),
  { count },
);
equal('every event in order, and again after the reconnection', live.numbers, [...Array(count).keys(), 0]);
check('the first came before the last was made', spread(live.times.slice(0, count)) >= 125, live.times);
equal('the end of the stream is what the browser reconnects on', [live.opened, live.errors], [2, 1]);

// a failure is an event of its own: it has data, which a lost connection has not
const failed = await page.evaluate(
  () =>
    new Promise((done) => {
      const source = new EventSource('/fail?how=panic-body&format=sse&after=2');
      const seen = [];
      source.onmessage = (event) => seen.push({ type: event.type, n: JSON.parse(event.data).n });
      source.addEventListener('error', (event) => {
        seen.push({ type: event.type, kind: event.data && JSON.parse(event.data).error.kind });
        source.close();
        done(seen);
      });
    }),
);
equal('a panic is one event named error, after whole events', failed, [
  { type: 'message', n: 0 },
  { type: 'message', n: 1 },
  { type: 'error', kind: 'panic' },
]);

// fetch: a body that is cut rejects, one that is whole does not
const fetched = await page.evaluate(async () => {
  const read = async (url) => {
    try {
      return (await (await fetch(url)).arrayBuffer()).byteLength;
    } catch (error) {
      return error.name;
    }
  };
  return {
    whole: await read('/bytes?size=300000&length=0'),
    cut: await read('/fail?how=error-body&format=bytes&after=2'),
    promised: await read('/promise?size=300000&length=0'),
    corrupt: await read('/promise?size=300000&length=0&corrupt=1'),
  };
});
equal('fetch resolves for whole bodies and rejects for cut and corrupt ones', fetched, {
  whole: 300000,
  cut: 'TypeError',
  promised: 300000,
  corrupt: 'TypeError',
});
await browser.close();
