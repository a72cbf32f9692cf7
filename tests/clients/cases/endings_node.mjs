// What each vendor's SDK (npm) concludes of each ending of a stream in its dialect: see crates/errors/src/endings.md.
import { readFileSync } from 'node:fs';

import Anthropic from '@anthropic-ai/sdk';
import { GoogleGenAI } from '@google/genai';
import { DefaultChatTransport, readUIMessageStream } from 'ai';
import { Ollama } from 'ollama';
import OpenAI from 'openai';

import { endings, row } from '../lib/endings.mjs';

const messages = [{ role: 'user', content: 'Hi' }];
const openai = (url) => new OpenAI({ baseURL: url, apiKey: 'unused', maxRetries: 0 });

// each gives whether the answer looked finished, or throws
const clients = {
  'OpenAI chat': ['openai-chat', 'openai', async (url) => {
    let finish = null;
    const stream = await openai(url).chat.completions.create({ model: 'm', stream: true, messages });
    for await (const chunk of stream) finish = chunk.choices[0].finish_reason;
    return finish === 'stop';
  }],
  'OpenAI responses': ['openai-responses', 'openai', async (url) => {
    let last = null;
    const stream = await openai(url).responses.create({ model: 'm', stream: true, input: 'Hi' });
    for await (const event of stream) last = event.type;
    return last === 'response.completed';
  }],
  Anthropic: ['anthropic', '@anthropic-ai/sdk', async (url) => {
    const client = new Anthropic({ baseURL: url, apiKey: 'unused', maxRetries: 0 });
    const message = await client.messages.stream({ model: 'm', max_tokens: 9, messages }).finalMessage();
    return message.stop_reason === 'end_turn';
  }],
  'Vercel AI SDK': ['vercel-ui', 'ai', async (url) => {
    const transport = new DefaultChatTransport({ api: url });
    const asked = [{ id: 'u', role: 'user', parts: [{ type: 'text', text: 'Hi' }] }];
    const stream = await transport.sendMessages({ chatId: 'c', messages: asked, trigger: 'submit-message' });
    let parts = [];
    for await (const message of readUIMessageStream({ stream, terminateOnError: true })) parts = message.parts;
    return parts.at(-1)?.state === 'done';
  }],
  Gemini: ['gemini', '@google/genai', async (url) => {
    const client = new GoogleGenAI({ apiKey: 'unused', httpOptions: { baseUrl: url, retryOptions: { attempts: 1 } } });
    let finish;
    for await (const chunk of await client.models.generateContentStream({ model: 'm', contents: 'Hi' })) {
      finish = chunk.candidates?.[0]?.finishReason;
    }
    return finish === 'STOP';
  }],
  Ollama: ['ollama', 'ollama', async (url) => {
    let done = false;
    for await (const part of await new Ollama({ host: url }).chat({ model: 'm', messages, stream: true })) done = part.done;
    return done;
  }],
};

for (const [dialect, [path, name, ask]] of Object.entries(clients)) {
  const manifest = new URL(`../node_modules/${name}/package.json`, import.meta.url);
  const { version } = JSON.parse(readFileSync(manifest));
  const seen = [];
  for (const ending of endings) seen.push(await judge(() => ask(`${process.env.DIALECTS_URL}/${path}/${ending}`)));
  row(dialect, `npm \`${name}\` ${version}`, seen);
}

async function judge(ask) {
  try {
    return (await ask()) ? 'complete' : '**looks whole**';
  } catch (error) {
    if (process.env.VERBOSE) console.log(error);
    return 'raises';
  }
}
