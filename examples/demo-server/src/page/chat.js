// The chat: a completion as it comes, then the same completion as one document, whose digest is checked here.

import { md5 } from './md5.js';
import { Result, failureOf, pause, read } from './read.js';

const FORM = document.getElementById('chat');
const ANSWERS = document.getElementById('answers');

/** Number of records after which the connection is cut if the switch says so. */
const CUT_AFTER = 12;

const body = (question, stream) =>
  JSON.stringify({ model: 'demo', stream, max_tokens: 60, messages: [{ role: 'user', content: question }] });

const request = (question, stream) => ({
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: body(question, stream),
});

function paragraph(article, name, text) {
  const element = document.createElement('p');
  element.className = name;
  element.textContent = text;
  article.append(element);
  return element;
}

/** Where the rest of a response can be read, if the server keeps it. */
const resumeLink = (headers) => /<([^>]*)>; *rel="resume"/.exec(headers?.get('link') ?? '')?.[1];

async function ask(question, cut) {
  const article = document.createElement('article');
  ANSWERS.append(article);
  paragraph(article, 'question', question);
  const text = paragraph(article, 'answer', '');
  const result = new Result(article);
  let done = false;
  let failure = null;
  let records = 0;
  const leave = new AbortController();
  let lost = false;
  const onRecord = (record) => {
    // What was received together with the last record is lost with the connection.
    if (lost) return;
    records += 1;
    if (record.event !== 'message' || failureOf(record)) {
      failure ??= failureOf(record) ?? { kind: record.event, message: 'the server ended the stream' };
      return;
    }
    result.chunk();
    if (record.data === '[DONE]') done = true;
    else text.textContent += JSON.parse(record.data).choices[0]?.delta.content ?? '';
    ANSWERS.scrollTop = ANSWERS.scrollHeight;
    if (cut && records === CUT_AFTER) {
      lost = true;
      leave.abort();
    }
  };
  const first = await read('/v1/chat/completions?interval_ms=60', { ...request(question, true), onRecord, signal: leave.signal });
  const rest = lost && resumeLink(first.headers);
  let end = first;
  if (rest) {
    lost = false;
    result.fact('cut after', `${records} chunks`);
    result.wait('The connection was cut.');
    await pause(600);
    end = await read(`${rest}?after=${records}`, { onRecord });
    result.fact('resumed by', end.headers?.get('x-request-id') ?? 'nobody');
  }
  result.streamFacts(first.headers);
  if (end.status !== 200 && end.status !== undefined) result.conclude('refused', 'bad', `Refused: status ${end.status}.`);
  else if (failure) result.conclude('failed', 'bad', `Failed: ${failure.kind}: ${failure.message}.`);
  else if (end.ended === 'whole' && done) {
    result.conclude('complete', 'good', rest ? 'Complete: it was cut, and went on where it was.' : 'Complete.');
    result.fact('digest', 'being checked');
    result.fact('digest', await verified(question, text.textContent));
  } else {
    const kept = lost ? ', and the server does not keep answers (--resume off)' : '';
    result.conclude('cut', 'bad', `The connection was cut: the answer is not complete${kept}.`);
  }
  ANSWERS.scrollTop = ANSWERS.scrollHeight;
}

/** The same request without streaming has the same tokens, and a digest. */
async function verified(question, streamed) {
  const bytes = [];
  const url = '/v1/chat/completions';
  const end = await read(url, { ...request(question, false), onBytes: (part) => bytes.push(part) });
  if (end.ended !== 'whole') return 'not checked: the document did not arrive';
  const whole = new Uint8Array(await new Blob(bytes).arrayBuffer());
  const declared = end.headers.get('x-content-md5');
  if (declared === null) return 'none declared';
  const computed = md5(whole);
  if (computed !== declared) return `MISMATCH: declared ${declared}, computed ${computed}`;
  const { content } = JSON.parse(new TextDecoder().decode(whole)).choices[0].message;
  return `md5 ${computed}, verified here; ${content === streamed ? 'the streamed text is the same' : 'ANOTHER TEXT'}`;
}

export function startChat() {
  FORM.addEventListener('submit', async (event) => {
    event.preventDefault();
    const button = FORM.querySelector('button');
    const input = FORM.elements.question;
    button.disabled = true;
    await ask(input.value, FORM.elements.cut.checked);
    button.disabled = false;
    // Whoever has gone elsewhere meanwhile stays there.
    if (document.activeElement === document.body) input.focus();
  });
}
