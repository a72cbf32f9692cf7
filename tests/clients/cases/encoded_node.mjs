// Compressed and coalesced streams in lock-step, see encoded.py: Node's http with zlib, its fetch, the OpenAI SDK, and Chromium's fetch
// and EventSource read each chunk before the server makes the next one.
// debian: chromium
import { randomUUID } from 'node:crypto';
import http from 'node:http';
import zlib from 'node:zlib';

import OpenAI from 'openai';

import { check, equal } from '../lib/check.mjs';
import { emptyPage, launch } from '../lib/chromium.mjs';

const SERVER = process.env.DIALECTS_URL;
const PATIENCE = 15_000; // only a chunk that is held back takes as long
const ALL = [...Array(10).keys()].map(String);
const FLUSH = {
  gzip: () => zlib.createGunzip({ flush: zlib.constants.Z_SYNC_FLUSH }),
  br: () => zlib.createBrotliDecompress(),
  // from Node 22.15
  ...(zlib.createZstdDecompress && { zstd: () => zlib.createZstdDecompress() }),
};

/** The contents of a stream of text, whose reader asks for the next chunk when it has read one. */
async function lockstep(key, texts) {
  const read = [];
  let text = '';
  for await (const piece of texts) {
    text += piece;
    const lines = text.split('\n');
    text = lines.pop();
    for (const line of lines.filter((line) => line.startsWith('data: {'))) {
      read.push(JSON.parse(line.slice(6)).choices[0].delta.content);
      await fetch(`${SERVER}/next/${key}`, { method: 'POST' });
    }
  }
  return read;
}

/** What `read` gives, or what it was when a chunk did not come. */
async function patient(what, read) {
  const signal = AbortSignal.timeout(PATIENCE);
  try {
    equal(`${what}: every chunk was readable before the next was made`, await read(signal), ALL);
  } catch (error) {
    check(`${what}: every chunk was readable before the next was made`, false, error);
  }
}

async function* decoded(stream) {
  const decoder = new TextDecoder();
  for await (const data of stream) yield decoder.decode(data, { stream: true });
}

console.log(`node ${process.version}, openai`);
for (const coding of Object.keys(FLUSH)) {
  await patient(`Node's http and zlib, ${coding}`, async (signal) => {
    const key = randomUUID();
    const options = { headers: { 'accept-encoding': coding }, signal };
    const response = await new Promise((done, failed) =>
      http.get(`${SERVER}/lockstep/${key}/events`, options, done).on('error', failed),
    );
    equal(`Node's http, ${coding}: the stream was encoded`, response.headers['content-encoding'], coding);
    return lockstep(key, decoded(response.pipe(FLUSH[coding]())));
  });
}
await patient("Node's fetch", async (signal) => {
  const key = randomUUID();
  const response = await fetch(`${SERVER}/lockstep/${key}/events`, { signal });
  check("Node's fetch: the stream was encoded", response.headers.has('content-encoding'));
  return lockstep(key, decoded(response.body));
});
await patient('the OpenAI SDK', async (signal) => {
  const key = randomUUID();
  const client = new OpenAI({ baseURL: `${SERVER}/lockstep/${key}`, apiKey: 'unused', maxRetries: 0 });
  const messages = [{ role: 'user', content: 'Count' }];
  const asked = client.chat.completions.create({ model: 'm', stream: true, messages }, { signal });
  const { data, response } = await asked.withResponse();
  check('the OpenAI SDK: the stream was encoded', response.headers.has('content-encoding'));
  const read = [];
  for await (const chunk of data) {
    read.push(chunk.choices[0].delta.content);
    await fetch(`${SERVER}/next/${key}`, { method: 'POST' });
  }
  return read;
});

const browser = await launch();
const page = await emptyPage(browser, SERVER);
for (const how of ['fetch', 'EventSource']) {
  const what = `Chromium's ${how}`;
  await patient(what, async () => {
    const { read, coding } = await page.evaluate(
      ([how, key, patience]) =>
        new Promise((done) => {
          const url = `/lockstep/${key}/events`;
          const read = [];
          let coding = null;
          const give = () => done({ read, coding });
          setTimeout(give, patience);
          const line = async (data) => {
            if (data === '[DONE]') return give();
            read.push(JSON.parse(data).choices[0].delta.content);
            await fetch(`/next/${key}`, { method: 'POST' });
          };
          if (how === 'EventSource') {
            const source = new EventSource(url);
            source.onmessage = ({ data }) => {
              if (data === '[DONE]') source.close();
              line(data);
            };
            return;
          }
          fetch(url).then(async (response) => {
            coding = response.headers.get('content-encoding');
            const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
            for (let text = '', piece; !(piece = await reader.read()).done; ) {
              const lines = (text + piece.value).split('\n');
              text = lines.pop();
              for (const each of lines.filter((each) => each.startsWith('data: '))) await line(each.slice(6));
            }
          });
        }),
      [how, randomUUID(), PATIENCE],
    );
    if (how === 'fetch') check(`${what}: the stream was encoded`, coding !== null, coding);
    return read;
  });
}
await browser.close();
