// What the Node clients get of each form: URL... on the command line, one JSON object on stdout. After `--events` only those that
// read any event stream.
import { readFileSync } from 'node:fs';

import Anthropic from '@anthropic-ai/sdk';
import { GoogleGenAI } from '@google/genai';
import { DefaultChatTransport } from 'ai';
import { EventSource } from 'eventsource';
import { createEventSource } from 'eventsource-client';
import { createParser } from 'eventsource-parser';
import OpenAI from 'openai';

import { launch } from '../lib/chromium.mjs';

async function* openai(url) {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'x', maxRetries: 0 });
  const messages = [{ role: 'user', content: 'x' }];
  for await (const chunk of await client.chat.completions.create({ model: 'm', messages, stream: true })) {
    if (chunk.choices[0].finish_reason === null) yield chunk.choices[0].delta.content;
  }
}

async function* anthropic(url) {
  const client = new Anthropic({ baseURL: url, apiKey: 'x', maxRetries: 0 });
  const messages = [{ role: 'user', content: 'x' }];
  for await (const event of await client.messages.create({ model: 'm', max_tokens: 9, messages, stream: true })) {
    if (event.type === 'content_block_delta') yield event.delta.text;
    if (event.type === 'ping') yield 'ping';
  }
}

async function* genai(url) {
  const client = new GoogleGenAI({ apiKey: 'x', httpOptions: { baseUrl: url } });
  for await (const chunk of await client.models.generateContentStream({ model: 'm', contents: 'x' })) yield chunk.text;
}

async function* ai(url) {
  const transport = new DefaultChatTransport({ api: `${url}/ui` });
  const messages = [{ id: '1', role: 'user', parts: [{ type: 'text', text: 'x' }] }];
  for await (const chunk of await transport.sendMessages({ chatId: '1', trigger: 'submit-message', messages })) {
    if (chunk.type === 'text-delta') yield chunk.delta;
    if (chunk.type === 'error') throw Object.assign(new Error(chunk.errorText), { name: 'error chunk' });
  }
}

/** An EventSource reconnects when the stream has ended: what came until then counts. */
async function* eventsource(url) {
  const seen = [];
  await new Promise((done) => {
    const source = new EventSource(`${url}/events`);
    source.onmessage = (event) => seen.push(event.data);
    source.onerror = () => (source.close(), done());
  });
  yield* seen;
}

async function* client(url) {
  const seen = [];
  await new Promise((done) => {
    const source = createEventSource({
      url: `${url}/events`,
      onMessage: (message) => message.event === undefined && seen.push(message.data),
      onDisconnect: () => (source.close(), done()),
    });
  });
  yield* seen;
}

async function* parser(url) {
  const seen = [];
  const parser = createParser({
    onEvent: (event) => event.event === undefined && seen.push(event.data),
    onError: (error) => seen.push(`error: ${error.type}`),
  });
  const decoder = new TextDecoder();
  const { body } = await fetch(`${url}/events`);
  try {
    for await (const bytes of body) parser.feed(decoder.decode(bytes, { stream: true }));
  } catch (error) {
    seen.push(`error: ${error.message}`);
  }
  yield* seen;
}

const eventsOnly = process.argv[2] === '--events';
const urls = process.argv.slice(eventsOnly ? 3 : 2);
const CLIENTS = {
  ...(eventsOnly ? {} : { openai, '@anthropic-ai/sdk': anthropic, '@google/genai': genai, ai }),
  eventsource,
  'eventsource-client': client,
  'eventsource-parser': parser,
};

const found = {};
for (const [name, read] of Object.entries(CLIENTS)) {
  const { version } = JSON.parse(readFileSync(new URL(`../node_modules/${name}/package.json`, import.meta.url)));
  const seen = (found[`${name} ${version} (npm)`] = []);
  for (const url of urls) {
    const got = [];
    try {
      for await (const text of read(url)) got.push(text);
    } catch (error) {
      got.push(`error: ${error.name}`);
    }
    seen.push(got);
  }
}

// Chromium's own EventSource
const browser = await launch();
const page = await browser.newPage();
await page.goto(new URL('/page', urls[0]).href);
console.error(`Chromium ${browser.version()}`);
found['Chromium (Debian), `EventSource`'] = await page.evaluate(
  (urls) =>
    Promise.all(
      urls.map(
        (url) =>
          new Promise((done) => {
            const seen = [];
            const source = new EventSource(`${url}/events`);
            source.onmessage = (event) => seen.push(event.data);
            source.onerror = () => (source.close(), done(seen));
          }),
      ),
    ),
  urls,
);
await browser.close();

console.log(JSON.stringify(found));
process.exit();
