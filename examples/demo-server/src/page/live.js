// The live figures: reads /live, and says so when the server drains, is gone, and is back.

import { millis, seconds, showFact } from './read.js';

const STATE = document.getElementById('state');
const FIGURES = document.getElementById('figures');
const HEAT = document.getElementById('heat');
const AGAIN = 1500;
/** Without an event for this long, the connection is taken for lost; there is one each second. */
const SILENCE = 6000;

let figures = null;
let waiting = [];

/** The last figures, or null. */
export const latest = () => figures;

/** Resolves with the next figures. */
export const nextFigures = () => new Promise((resolve) => waiting.push(resolve));

function say(state, text) {
  if (STATE.textContent === text) return;
  STATE.dataset.state = state;
  STATE.textContent = text;
}

function show(now) {
  figures = now;
  for (const resolve of waiting.splice(0)) resolve(now);
  if (now.state === 'active') say('active', 'The server is serving.');
  else {
    say('draining', `The server is draining (${now.state}): it stops when its streams have ended, or at its deadline.`);
  }
  const fact = (name, value) => showFact(FIGURES, name, value);
  fact('state', now.state);
  if (now.deadline_ms !== null) fact('deadline in', seconds(now.deadline_ms));
  fact('active streams', now.active);
  fact('open connections', now.connections);
  for (const [outcome, count] of Object.entries(now.outcomes)) fact(outcome, count);
  for (const [name, { p50, p99 }] of [['first chunk', now.first_chunk_ms], ['gap', now.gap_ms]]) {
    fact(`${name} p50`, millis(p50));
    fact(`${name} p99`, millis(p99));
  }
  document.getElementById('break-drain').hidden = !now.may_drain;
  showHeat(now.gaps_by_index);
}

/** A table: a column for each power of two of the chunk's index, a row for each bucket of the gap that has values. */
function showHeat({ upper_ms: uppers, rows: columns }) {
  const key = JSON.stringify(columns);
  if (HEAT.dataset.key === key) return;
  HEAT.dataset.key = key;
  const used = uppers.map((_, i) => i).filter((i) => columns.some(({ counts }) => counts[i] > 0));
  if (used.length === 0) {
    HEAT.textContent = 'No gap yet: send a message, or break something.';
    return;
  }
  const table = document.createElement('table');
  const row = (header, cells) => {
    const line = document.createElement('tr');
    const head = document.createElement('th');
    head.scope = 'row';
    head.textContent = header;
    line.append(head, ...cells);
    return line;
  };
  for (let i = used[0]; i <= used.at(-1); i += 1) {
    const cells = columns.map(({ counts }) => {
      const cell = document.createElement('td');
      const share = counts[i] / counts.reduce((sum, count) => sum + count, 0);
      cell.className = share === 0 || Number.isNaN(share) ? '' : share < 0.1 ? 'h1' : share < 0.5 ? 'h2' : 'h3';
      cell.textContent = counts[i] || '';
      return cell;
    });
    table.prepend(row(uppers[i] === null ? `longer` : `≤ ${millis(uppers[i])}`, cells));
  }
  const heads = columns.map(({ index }) => {
    const head = document.createElement('th');
    head.scope = 'col';
    head.textContent = index === 1 ? '1' : index >= 2048 ? '2048–' : `${index}–${index * 2 - 1}`;
    return head;
  });
  table.prepend(row('gap \\ chunk', heads));
  HEAT.replaceChildren(table);
}

/** Reads /live, forever. */
export function startLive() {
  const source = new EventSource('/live');
  let silence;
  const again = () => {
    clearTimeout(silence);
    source.close();
    say('gone', 'The server does not answer. This page tries again until it is back.');
    setTimeout(startLive, AGAIN);
  };
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(again, SILENCE);
  };
  heard();
  source.onmessage = ({ data }) => {
    heard();
    show(JSON.parse(data));
  };
  source.addEventListener('drain', () => {
    clearTimeout(silence);
    source.close();
    say('draining', 'The server has said goodbye: it shuts down.');
    setTimeout(startLive, AGAIN);
  });
  source.onerror = again;
}
