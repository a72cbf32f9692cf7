// The failures: each button sends the same request to a route with the layers and to the same route below /bare.

import { latest, nextFigures } from './live.js';
import { md5 } from './md5.js';
import { Result, failureOf, millis, pause, read, seconds } from './read.js';

const SIDES = { layered: '', bare: '/bare' };

/** An event stream that fails, or that is told to end. */
async function events(result, url, options = {}) {
  let last = null;
  let silent;
  const began = performance.now();
  const listen = () => {
    clearInterval(silent);
    const since = performance.now();
    silent = setInterval(() => {
      const ms = performance.now() - since;
      if (ms < 1500) return;
      result.wait('Nothing comes, and nothing says why.');
      result.fact('silent for', seconds(ms));
    }, 250);
  };
  listen();
  const end = await read(url, {
    ...options,
    onRecord(record) {
      listen();
      if (record.event === 'message') {
        result.chunk();
        result.wait('Streaming.');
      } else last = record;
    },
  });
  clearInterval(silent);
  result.streamFacts(end.headers);
  result.fact('took', seconds(performance.now() - began));
  const failure = last && failureOf(last);
  if (end.status >= 400) result.conclude('refused', 'bad', `Refused: status ${end.status}.`);
  else if (failure) {
    result.conclude('failed', 'good', `The last event says why: ${failure.kind}, “${failure.message}”, logged under ${failure.id ?? 'no id'}.`);
  } else if (last?.event === 'drain') {
    const { retry_ms: retry } = JSON.parse(last.data);
    result.conclude('drained', 'good', `The last event says: the server shuts down, come back in ${millis(retry)}.`);
  } else if (end.ended === 'left') {
    result.conclude('left', 'bad', 'No end and no reason: this page gave up.');
  } else if (end.ended === 'cut') {
    result.conclude('cut', 'bad', 'The connection broke: no reason, no id. An EventSource would send the same request again.');
  } else result.conclude('complete', 'bad', 'The stream ended as if it were complete.');
  return end;
}

const failing = (how) => (sides) =>
  Promise.all(sides.map(({ result, prefix }) => events(result, `${prefix}/fail?how=${how}&after=6&interval_ms=120`)));

async function corrupt(sides) {
  await Promise.all(
    sides.map(async ({ result, prefix }) => {
      const parts = [];
      const end = await read(`${prefix}/promise?size=1000000&corrupt=1`, {
        onBytes(part) {
          parts.push(part);
          result.chunk();
        },
      });
      const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
      result.fact('request id', end.headers?.get('x-request-id') ?? 'none');
      result.fact('bytes', bytes.length);
      if (end.ended === 'cut') {
        result.conclude('cut', 'good', 'The download failed: its last bytes were withheld, so nobody takes it for the file.');
        return;
      }
      const declared = end.headers.get('x-content-md5');
      const computed = md5(bytes);
      result.fact('declared', declared);
      result.fact('computed here', computed);
      if (declared === computed) result.conclude('verified', 'bad', 'The digest is right.');
      else {
        result.conclude('mismatch', 'bad', 'The browser took it for a complete download. Only the digest, computed here, shows that it is not.');
      }
    }),
  );
}

/** The side without the layers never ends, so this page leaves it when the other has ended. */
async function hang(sides) {
  const leave = new AbortController();
  const url = '/fail?how=hang&after=3&interval_ms=120';
  const [layered, bare] = ['layered', 'bare'].map((name) => sides.find(({ side }) => side === name));
  const open = events(bare.result, bare.prefix + url, { signal: leave.signal });
  await events(layered.result, layered.prefix + url);
  await pause(2000);
  leave.abort();
  await open;
}

const HELD = 6000;
/** More than is buffered on the way of a stream that its client does not read (Chromium: some 70 MB). */
const BUFFERED = 400_000_000;
/** How often at most a side that the server has not ended yet stops reading: the download is longer than what that reads. */
const ROUNDS = 8;

/** How many streams the server has ended or seen leaving, and how many of them because their client did not read. */
const counts = () => ({ aborted: latest()?.outcomes.aborted ?? 0, slow: latest()?.slow_readers ?? 0 });

/** Waits until a figure of the server has grown, `ms` at most. */
async function grown(figure, ms) {
  const before = counts()[figure];
  const until = performance.now() + ms;
  while (counts()[figure] === before && performance.now() < until) await Promise.race([nextFigures(), pause(1000)]);
}

/** Takes the first part of a large download and reads no more, until the server ends it or this page leaves. */
async function slow(sides) {
  const before = counts();
  const stall = latest()?.write_stall_ms ?? 0;
  const guarded = stall > 0 && stall < HELD;
  // What the server sends meanwhile waits in the buffers of both, and the server's clock begins when they are full.
  const held = guarded ? grown('slow', stall + 4 * HELD) : pause(HELD);
  await Promise.all(
    sides.map(async ({ result, prefix }) => {
      const leave = new AbortController();
      let response;
      try {
        response = await fetch(`${prefix}/bytes?size=4000000000&chunk=65536&length=0`, { signal: leave.signal, cache: 'no-store' });
        result.fact('request id', response.headers.get('x-request-id') ?? 'none');
        const reader = response.body.getReader();
        let { value } = await reader.read();
        result.chunk();
        result.fact('bytes read', value.length);
        result.wait('Not reading.');
        await held;
        result.fact('held for', seconds(performance.now() - result.started));
        // A browser learns of the end only when it reads on. The server may still have been sending on this side when it
        // ended the other one: then this side stops reading once more.
        for (let round = 0; guarded && value && round < ROUNDS; round += 1) {
          if (round > 0) await pause(2 * stall);
          for (let bytes = 0; value && bytes < BUFFERED; bytes += value?.length ?? 0) ({ value } = await reader.read());
        }
        result.wait('This page closes the connection.');
      } catch (error) {
        // A page that had no time for the first part is a slow reader as well.
        if (response) result.cut = true;
        else result.conclude('cut', 'bad', `The request failed: ${error.message}.`);
      }
      leave.abort();
    }),
  );
  if (counts().aborted === before.aborted) await grown('aborted', HELD);
  const now = counts();
  for (const { side, result } of sides) {
    if (result.verdict.dataset.verdict) continue;
    const how = result.cut ? 'The server ended the stream of a client that does not read' : 'The client left';
    if (side === 'bare') result.conclude(result.cut ? 'cut' : 'unknown', 'bad', `${how}, and no figure of the server says that there was such a stream.`);
    else if (result.cut && now.slow > before.slow) {
      result.conclude('slow_reader', 'good', `${how}, and counts it: outcome “aborted”, error type “slow_reader”, ${before.slow} before, ${now.slow} now.`);
    } else if (!result.cut && now.aborted > before.aborted) {
      result.conclude('counted', 'good', `The server knows that this client left: outcome “aborted”, ${before.aborted} before, ${now.aborted} now.`);
    } else result.conclude('unknown', 'bad', `${how}, and the server does not count it.`);
  }
}

const WORDS = 40;
const KEPT = 12;

/** Loses the connection in the middle of a story, and asks for the rest as an `EventSource` does. */
async function lost(sides) {
  await Promise.all(
    sides.map(async ({ result, prefix }) => {
      const url = `${prefix}/story?words=${WORDS}&interval_ms=60`;
      const leave = new AbortController();
      const seen = [];
      const runs = new Set();
      let last = '';
      let cut = false;
      const onRecord = (record) => {
        // What was received together with the last word is lost with the connection.
        if (cut || record.event !== 'message') return;
        const { n, run } = JSON.parse(record.data);
        seen.push(n);
        runs.add(run);
        last = record.id;
        result.chunk();
        if (seen.length === KEPT && runs.size === 1) {
          cut = true;
          leave.abort();
        }
      };
      await read(url, { signal: leave.signal, onRecord });
      cut = false;
      result.wait('The connection is lost.');
      await pause(600);
      const headers = last ? { 'last-event-id': last } : {};
      const end = await read(url, { headers, onRecord });
      result.streamFacts(end.headers);
      result.fact('runs of the handler', runs.size);
      const twice = seen.length - new Set(seen).size;
      if (end.ended !== 'whole' || end.status !== 200) result.conclude('cut', 'bad', 'The rest did not come.');
      else if (runs.size === 1 && seen.length === WORDS && seen.every((n, i) => n === i)) {
        result.conclude('resumed', 'good', `The story went on where it was: ${WORDS} words, none missing, none twice.`);
      } else result.conclude('restarted', 'bad', `The story began again: ${twice} words came twice.`);
    }),
  );
}

/** Opens a stream on both sides and then tells the server to stop. */
async function drain(sides) {
  let begin;
  const begun = new Promise((resolve) => (begin = resolve));
  let open = 0;
  const onHead = () => {
    open += 1;
    if (open === 2) begin();
  };
  const ends = sides.map(({ result, prefix }) => events(result, `${prefix}/events?count=0&interval_ms=400`, { onHead }));
  await Promise.race([begun, Promise.all(ends)]);
  await fetch('/drain', { method: 'POST' });
  await Promise.all(ends);
}

const BREAKS = [
  ['panic', 'Panic in mid-stream', 'The body of the response panics after 6 events.', failing('panic-body')],
  ['error', 'Error in mid-stream', 'The body returns an error after 6 events.', failing('error-body')],
  ['corrupt', 'Corrupt download', 'The last bytes do not match the MD5 that the handler declared.', corrupt],
  ['hang', 'Hang', 'The handler sends 3 events and then nothing more.', hang],
  ['slow', 'Slow reader', `This page opens a download of 4 GB and reads one part of it. With --write-stall 2s the server ends it; else this page leaves after ${HELD / 1000} s.`, slow],
  ['lost', 'Lost connection', `The connection is cut after ${KEPT} of ${WORDS} words, and the request sent again with the id of the last event, as an EventSource does.`, lost],
  ['drain', 'Drain', 'A deploy: the server is told to stop while both streams are open. It then has to be started again.', drain],
];

/** Builds the list; the drain is shown when the server says that the page may start one. */
export function startBreaks() {
  const template = document.getElementById('break');
  for (const [name, title, about, run] of BREAKS) {
    const article = template.content.cloneNode(true).querySelector('article');
    article.id = `break-${name}`;
    article.hidden = name === 'drain';
    const heading = article.querySelector('h3');
    heading.textContent = title;
    article.setAttribute('aria-label', title);
    article.querySelector('.about').textContent = about;
    const button = article.querySelector('button');
    button.textContent = 'Try it';
    button.setAttribute('aria-label', `Try it: ${title}`);
    const groups = [...article.querySelectorAll('[data-side]')];
    for (const group of groups) group.setAttribute('aria-label', `${title}, ${group.firstElementChild.textContent.toLowerCase()}`);
    button.addEventListener('click', async () => {
      button.disabled = true;
      article.setAttribute('aria-busy', 'true');
      const sides = groups.map((group) => {
        group.replaceChildren(group.firstElementChild);
        const { side } = group.dataset;
        return { side, prefix: SIDES[side], result: new Result(group) };
      });
      try {
        await run(sides);
      } catch (error) {
        for (const { result } of sides) {
          if (!result.verdict.dataset.verdict) result.conclude('unanswered', 'bad', `The server does not answer (${error.message}).`);
        }
      }
      article.removeAttribute('aria-busy');
      button.disabled = false;
    });
    document.getElementById('breaks').append(article);
  }
}
