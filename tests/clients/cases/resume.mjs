// Clients whose connection breaks in the middle of a resumable stream: EventSource of npm and of Chromium, eventsource-client, openai.
// debian: chromium
import { EventSource } from 'eventsource';
import { createEventSource } from 'eventsource-client';
import OpenAI from 'openai';
import { Stream } from 'openai/streaming';

import { breaking } from '../lib/breaking.mjs';
import { DEMO_URL, check, equal } from '../lib/check.mjs';
import { emptyPage, launch } from '../lib/chromium.mjs';

const words = 30;
const story = `/story?words=${words}&interval_ms=20`;
const all = [...Array(words).keys()];

/** What a client must have seen: each token once, of one run of the handler. */
function judge(name, tokens, broken) {
  equal(`${name}: each token once, in order`, tokens.map(({ n }) => n), all);
  equal(`${name}: the handler ran once`, new Set(tokens.map(({ run }) => run)).size, 1);
  equal(`${name}: the connection broke`, broken, 2);
}

// In bytes, the head included.
const cuts = [900, 1500];

{
  const way = await breaking(cuts);
  const tokens = [];
  const ready = await new Promise((done) => {
    const source = new EventSource(`${way.url}${story}`);
    source.onmessage = ({ data }) => tokens.push(JSON.parse(data));
    source.onerror = () => source.readyState === EventSource.CLOSED && done(source.readyState);
  });
  judge('eventsource', tokens, way.broken());
  equal('eventsource: it stops at the end', ready, EventSource.CLOSED);
  way.server.close();
}

{
  const way = await breaking(cuts);
  const tokens = [];
  await new Promise((done) => {
    const source = createEventSource({
      url: `${way.url}${story}`,
      onMessage: ({ data }) => tokens.push(JSON.parse(data)) === words && (source.close(), done()),
    });
  });
  judge('eventsource-client', tokens, way.broken());
  way.server.close();
}

{
  const way = await breaking(cuts);
  const browser = await launch();
  const page = await emptyPage(browser, way.url);
  const seen = await page.evaluate(
    (path) =>
      new Promise((done) => {
        const source = new EventSource(path);
        const tokens = [];
        source.onmessage = ({ data }) => tokens.push(JSON.parse(data));
        source.onerror = () => source.readyState === EventSource.CLOSED && done({ tokens, ready: source.readyState });
      }),
    story,
  );
  judge('Chromium', seen.tokens, way.broken());
  equal('Chromium: it stops at the end', seen.ready, 2);
  await browser.close();
  way.server.close();
}

{
  // A POST cannot be sent again, so the application asks for the rest by the id of the stream and the number of chunks that it has.
  const body = { model: 'demo', messages: [{ role: 'user', content: 'Tell me about the rabbit' }] };
  const client = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: 'unused', maxRetries: 0 });
  const whole = await client(DEMO_URL).chat.completions.create(body);
  const way = await breaking([2500]);
  const { data, response } = await client(way.url)
    .chat.completions.create({ ...body, stream: true }, { query: { interval_ms: 10 } })
    .withResponse();
  const chunks = [];
  let error;
  try {
    for await (const chunk of data) chunks.push(chunk);
  } catch (thrown) {
    error = thrown;
  }
  check('openai: the stream breaks in the middle', error !== undefined && chunks.length > 0, `${chunks.length} chunks, ${error}`);
  const received = chunks.length;
  const id = response.headers.get('stream-id');
  const rest = await fetch(`${way.url}/streams/${id}?after=${received}`);
  for await (const chunk of Stream.fromSSEResponse(rest, new AbortController())) chunks.push(chunk);
  const text = chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? '').join('');
  equal('openai: the rest follows what was received', text, whole.choices[0].message.content);
  check('openai: the rest came from the log', chunks.length > received, [received, chunks.length]);
  const ids = new Set(chunks.map((chunk) => chunk.id));
  equal('openai: all chunks are of one completion', ids.size, 1);
  way.server.close();
}
