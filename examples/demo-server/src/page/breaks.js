// The failures: each button sends the same request to a route with the layers and to the same route below /bare.

import { latest, nextFigures } from './live.js';
import { md5 } from './md5.js';
import { Result, failureOf, millis, read, seconds } from './read.js';

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
  setTimeout(() => leave.abort(), 2000);
  await open;
}

const HELD = 6000;

/** Takes the first part of a large download and then reads no more. */
async function slow(sides) {
  const before = latest()?.outcomes.aborted ?? 0;
  await Promise.all(
    sides.map(async ({ result, prefix }) => {
      const leave = new AbortController();
      try {
        const response = await fetch(`${prefix}/bytes?size=4000000000&chunk=65536&length=0`, { signal: leave.signal, cache: 'no-store' });
        result.fact('request id', response.headers.get('x-request-id') ?? 'none');
        const reader = response.body.getReader();
        const { value } = await reader.read();
        result.chunk();
        result.fact('bytes read', value.length);
        result.wait('Not reading.');
        // What the server sends meanwhile waits in the buffers of both.
        const left = new Promise((resolve) => setTimeout(resolve, HELD, 'left'));
        const ended = await Promise.race([left, reader.closed.then(() => 'whole', () => 'cut')]);
        result.fact('held for', seconds(performance.now() - result.started));
        if (ended === 'cut') result.conclude('cut', 'good', 'The server ended the stream of a client that does not read.');
        else result.wait('This page closes the connection.');
      } catch (error) {
        result.conclude('cut', 'bad', `The request failed: ${error.message}.`);
      }
      leave.abort();
    }),
  );
  let after = before;
  for (let tries = 0; tries < 5 && after === before; tries += 1) after = (await nextFigures()).outcomes.aborted;
  for (const { side, result } of sides) {
    if (result.verdict.dataset.verdict) continue;
    if (side === 'layered' && after > before) {
      result.conclude('counted', 'good', `The server knows that this client left: outcome “aborted”, ${before} before, ${after} now.`);
    } else if (side === 'layered') result.conclude('unknown', 'bad', 'The server does not count this stream.');
    else result.conclude('unknown', 'bad', 'The client left, and no figure of the server says that there was such a stream.');
  }
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
  ['slow', 'Slow reader', `This page opens a download of 4 GB, reads one part of it, and leaves after ${HELD / 1000} s.`, slow],
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
