// Streams that are found by a key: the resume transport of ai by the id of a chat, and openai's retries by an Idempotency-Key.
import { AbstractChat, DefaultChatTransport } from 'ai';
import OpenAI from 'openai';

import { breaking } from '../lib/breaking.mjs';
import { DEMO_URL, check, equal } from '../lib/check.mjs';

/** What `useChat` of ai's packages for React, Vue and Svelte is around: the same class, with a state that nobody watches. */
class Chat extends AbstractChat {
  constructor(url, id, { messages = [], interval = 25 } = {}) {
    const state = {
      status: 'ready',
      error: undefined,
      messages,
      pushMessage: (message) => void (state.messages = [...state.messages, message]),
      popMessage: () => void (state.messages = state.messages.slice(0, -1)),
      replaceMessage: (at, message) => void (state.messages = state.messages.with(at, message)),
      snapshot: structuredClone,
    };
    const transport = new DefaultChatTransport({
      api: `${url}/api/chat`,
      // The words of the answer. The route of the reconnection is ai's own: GET /api/chat/{id}/stream.
      prepareSendMessagesRequest: ({ id, messages }) => ({ api: `${url}/api/chat?interval_ms=${interval}&words=200`, body: { id, messages } }),
    });
    super({ id, transport, state });
  }
  get answer() {
    const message = this.messages.at(-1);
    return message?.role === 'assistant' && message;
  }
  get text() {
    return this.answer ? this.answer.parts.map((part) => part.text ?? '').join('') : '';
  }
}

const question = { text: 'Tell me about the rabbit' };
const whole = new Chat(DEMO_URL, 'whole', { interval: 0 });
await whole.sendMessage(question);
equal('ai: a chat without a break is whole', [whole.status, whole.text.split(' ').length > 20], ['ready', true]);

{
  const before = new Chat(DEMO_URL, 'never');
  await before.resumeStream();
  equal('ai: nothing runs before the first message', [before.status, before.messages], ['ready', []]);
}

{
  const way = await breaking([1500]);
  const chat = new Chat(way.url, 'broken');
  await chat.sendMessage(question);
  const { id } = chat.answer;
  const part = chat.text;
  equal('ai: the stream breaks in the middle', [way.broken(), chat.status], [1, 'error']);
  check('ai: it has a part of the answer', part !== '' && part !== whole.text && whole.text.startsWith(part), part);
  // Another tab, or the page after a reload: `useChat({ resume: true })`.
  const other = new Chat(way.url, 'broken', { messages: chat.messages.slice(0, 1) });
  await Promise.all([chat.resumeStream(), other.resumeStream()]);
  for (const [name, resumed] of [['the chat', chat], ['another tab', other]]) {
    equal(`ai: ${name} has the whole answer`, [resumed.status, resumed.text], ['ready', whole.text]);
    equal(`ai: ${name} has one answer, of one run`, [resumed.messages.length, resumed.answer.id], [2, id]);
  }
  await chat.resumeStream();
  equal('ai: nothing runs after the end', [chat.status, chat.text], ['ready', whole.text]);
  const statuses = way.connections.map(({ response }) => [...response.matchAll(/^HTTP\/1.1 (\d+)/gm)].map(([, status]) => status)).flat();
  equal('ai: what it was answered', statuses.sort(), ['200', '200', '200', '204']);
  way.server.close();
}

/** A streamed completion whose first response is lost before its first byte. */
async function lost(headers) {
  const way = await breaking([0]);
  const client = new OpenAI({ baseURL: `${way.url}/v1`, apiKey: 'a-user', maxRetries: 2 });
  const body = { model: 'demo', stream: true, messages: [{ role: 'user', content: question.text }] };
  const stream = await client.chat.completions.create(body, { query: { interval_ms: 10 }, headers });
  let text = '';
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? '';
  way.server.close();
  const ids = way.connections.map(({ response }) => /^stream-id: (.*)\r$/m.exec(response)?.[1]);
  return { text, ids, requests: way.connections.map(({ request }) => request) };
}

{
  const plain = await new OpenAI({ baseURL: `${DEMO_URL}/v1`, apiKey: 'a-user' }).chat.completions.create({
    model: 'demo',
    messages: [{ role: 'user', content: question.text }],
  });
  const expected = plain.choices[0].message.content;
  const without = await lost({});
  equal('openai: it retries', [without.requests.length, without.text], [2, expected]);
  check('openai: it sends no Idempotency-Key of its own', !without.requests.some((request) => /idempotency/i.test(request)));
  check('openai: so the retry begins another stream', without.ids[0] && without.ids[1] && without.ids[0] !== without.ids[1], without.ids);
  const key = crypto.randomUUID();
  const joined = await lost({ 'Idempotency-Key': key });
  const sent = joined.requests.map((request) => /^idempotency-key: (.*)\r$/im.exec(request)?.[1]);
  equal('openai: the retry repeats the key of the request', sent, [key, key]);
  equal('openai: the retry gets the whole answer', joined.text, expected);
  check('openai: it is of the stream that the first request began', joined.ids[0] && joined.ids[0] === joined.ids[1], joined.ids);
}
