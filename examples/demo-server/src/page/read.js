// Reads a response as a client does, and shows what the client can conclude.

const SVG = 'http://www.w3.org/2000/svg';
const GAPS = [10, 50, 100, 250, 1000];

/**
 * Sends a request and calls `onRecord({event, data, id})` for each server-sent event, as it comes, or `onBytes(chunk)` for each part
 * of another body. Resolves when the response has ended, and never rejects:
 * `{status, headers, ended: 'whole' | 'cut' | 'left', error}`.
 */
export async function read(url, { onHead, onRecord, onBytes, ...options }) {
  let response;
  try {
    response = await fetch(url, { cache: 'no-store', ...options });
    onHead?.(response);
    const reader = response.body.getReader();
    const events = onRecord && eventParser(onRecord);
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return { status: response.status, headers: response.headers, ended: 'whole' };
      events?.(value);
      onBytes?.(value);
    }
  } catch (error) {
    const ended = error.name === 'AbortError' ? 'left' : 'cut';
    return { status: response?.status, headers: response?.headers, ended, error };
  }
}

/** Takes parts of an event stream cut anywhere (HTML standard, 9.2.6); comments, such as heartbeats, are no events. */
function eventParser(onRecord) {
  const decoder = new TextDecoder();
  let rest = '';
  let id = '';
  return (bytes) => {
    rest += decoder.decode(bytes, { stream: true });
    const blocks = rest.split(/\r\n\r\n|\n\n|\r\r/);
    rest = blocks.pop();
    for (const block of blocks) {
      const record = { event: 'message', data: null };
      for (const line of block.split(/\r\n|\n|\r/)) {
        const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (field === 'event') record.event = value;
        if (field === 'id') id = value;
        if (field === 'data') record.data = record.data === null ? value : `${record.data}\n${value}`;
      }
      // The id of an event is the last one that the stream has sent, also in a block without data.
      if (record.data !== null) onRecord({ ...record, id });
    }
  };
}

/** Where one response is shown: the strip of its chunks, the verdict, and facts. */
export class Result {
  constructor(parent) {
    const parts = document.getElementById('result').content.cloneNode(true);
    [this.strip, this.verdict, this.facts] = parts.children;
    parent.append(parts);
    this.started = performance.now();
    this.times = [];
  }

  /** Adds a cell to the strip. */
  chunk() {
    this.times.push(performance.now() - this.started);
    this.drawing ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.drawing = undefined;
    const { times } = this;
    if (times.length === 0) return;
    const total = times.at(-1);
    const longest = Math.max(...times.map((time, i) => time - (times[i - 1] ?? 0)));
    const svg = document.createElementNS(SVG, 'svg');
    svg.setAttribute('viewBox', '0 0 1000 24');
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('role', 'img');
    svg.setAttribute(
      'aria-label',
      `${times.length} chunks in ${seconds(total)}; longest gap ${millis(longest)}`,
    );
    const width = Math.max(1.5, Math.min(8, 700 / times.length));
    times.forEach((time, i) => {
      const cell = document.createElementNS(SVG, 'rect');
      const gap = time - (times[i - 1] ?? 0);
      cell.setAttribute('x', ((time / total) * (1000 - width)).toFixed(1));
      cell.setAttribute('y', 2);
      cell.setAttribute('width', width);
      cell.setAttribute('height', 20);
      cell.setAttribute('class', `g${GAPS.filter((limit) => gap >= limit).length}`);
      svg.append(cell);
    });
    this.strip.replaceChildren(svg);
  }

  /** `kind` is for programs, `tone` one of good, bad, warn. */
  conclude(kind, tone, text) {
    this.draw();
    this.verdict.dataset.verdict = kind;
    this.verdict.dataset.tone = tone;
    this.verdict.textContent = text;
  }

  /** Shows that the response has not ended. */
  wait(text) {
    // A screen reader says each change, even to the same text.
    if (this.verdict.textContent === text) return;
    this.verdict.dataset.tone = 'warn';
    this.verdict.textContent = text;
  }

  fact(name, value) {
    showFact(this.facts, name, value);
  }

  /** The facts that each stream has. */
  streamFacts(headers) {
    this.fact('request id', headers?.get('x-request-id') ?? 'none');
    if (this.times.length > 0) this.fact('first chunk', millis(this.times[0]));
    this.fact('chunks', this.times.length);
  }
}

/** Sets one entry of a description list. */
export function showFact(list, name, value) {
  let entry = [...list.children].find((child) => child.dataset.name === name);
  if (!entry) {
    entry = document.createElement('div');
    entry.dataset.name = name;
    const term = document.createElement('dt');
    term.textContent = name;
    entry.append(term, document.createElement('dd'));
    list.append(entry);
  }
  if (entry.lastChild.textContent !== String(value)) entry.lastChild.textContent = value;
}

export const millis = (ms) => (ms === null ? 'none yet' : ms < 10 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${Math.round(ms)} ms` : seconds(ms));
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

/** A failure in the form of the stream: the last event says what happened. */
export function failureOf(record) {
  try {
    const { error } = JSON.parse(record.data);
    if (!error) return null;
    return { kind: error.kind ?? error.code ?? error.type, message: error.message, id: error.request_id };
  } catch {
    return null;
  }
}
