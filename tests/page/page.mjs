// The page of the demo server in headless Chromium: what each button shows on both sides, and whether everybody can use it.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { statSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';

import { check, equal } from '../clients/lib/check.mjs';
import { launch } from '../clients/lib/chromium.mjs';

const SCREENSHOT = process.argv.includes('--screenshot')
  ? new URL('../../docs/images/demo-page.png', import.meta.url).pathname
  : join(process.env.SCRATCH, 'page.png');

// A receiver of traces, for the indexes of chunks: an attribute of the span of each chunk, as protobuf.
const tracedChunks = new Set();
const receiver = createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const spans = Buffer.concat(parts).toString('latin1');
  for (const [, index] of spans.matchAll(/chunk\.index\x12\x02\x18([\0-\x7f])/g)) tracedChunks.add(index.charCodeAt());
  response.writeHead(200, { 'content-type': 'application/x-protobuf' }).end();
}).listen(0, '127.0.0.1');
await once(receiver, 'listening');

async function demo(publicAddr, adminAddr, more = ['--write-stall', '1s', '--advertise', '500ms', '--deadline', '2s']) {
  const flags = ['--public', publicAddr, '--admin', adminAddr, '--page-may-drain', '--idle-timeout', '3s', ...more];
  flags.push('--otlp', `http://127.0.0.1:${receiver.address().port}`);
  const child = spawn(process.env.DEMO_BIN, flags, { stdio: ['ignore', 'pipe', 'ignore'] });
  let said = '';
  for await (const text of child.stdout.setEncoding('utf8').iterator({ destroyOnReturn: false })) {
    said += text;
    if (said.includes('\n')) break;
  }
  const [, at, admin] = /^listening public=(\S+) admin=(\S+)/.exec(said) ?? [];
  if (!at) throw new Error(`the demo server did not start: ${said}`);
  return { child, at, admin };
}

const started = [];
async function startDemo(...addresses) {
  const server = await demo(...addresses);
  started.push(server.child);
  return server;
}
process.on('exit', () => started.forEach((child) => child.kill('SIGKILL')));

const server = await startDemo('127.0.0.1:0', '127.0.0.1:0');
const url = `http://${server.at}/`;
const browser = await launch();

/** A page that notes what went wrong in it. Streams that are cut on purpose are told by the browser as errors of the network. */
async function open(options = {}, state = 'active') {
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
  const page = await context.newPage();
  page.problems = [];
  page.on('pageerror', (error) => page.problems.push(String(error)));
  page.on('console', (message) => {
    if (!['error', 'warning'].includes(message.type())) return;
    page.problems.push(`${message.text()} (${message.location().url})`);
  });
  await page.exposeFunction('reportViolation', (violation) => page.problems.push(`CSP: ${violation}`));
  await page.addInitScript(() =>
    addEventListener('securitypolicyviolation', (event) => reportViolation(`${event.violatedDirective} ${event.blockedURI}`)),
  );
  await page.goto(url);
  await page.locator(`#state[data-state=${state}]`).waitFor();
  return page;
}

/** Waits for a condition of this program, 20 s at most. */
async function until(good) {
  for (let tries = 0; tries < 200 && !good(); tries += 1) await page.waitForTimeout(100);
}

const page = await open();
equal('the page opens without an error or a violation of its policy', page.problems, []);

// The policy is not only a header: it refuses what a foreign text could bring in.
await page.evaluate(() => document.body.insertAdjacentHTML('beforeend', '<p id="inline" style="color: red"></p>'));
await until(() => page.problems.some((problem) => problem.startsWith('CSP: style-src')));
check('the policy refuses an inline style', page.problems.some((problem) => problem.includes('style-src')), page.problems);
await page.evaluate(() => document.getElementById('inline').remove());
page.problems.length = 0;

// The chat, by keyboard
const input = page.getByRole('textbox', { name: 'Message' });
await input.focus();
await page.keyboard.press('Enter');
const answer = page.locator('#answers article').last();
const verdict = (locator) => locator.locator('[data-verdict]').waitFor().then(() => locator.locator('.verdict').getAttribute('data-verdict'));
equal('a chat is complete', await verdict(answer), 'complete');
await page.waitForFunction(() => /verified here/.test(document.querySelector('#answers article:last-child .facts').textContent));
const fact = (locator, name) => locator.locator(`.facts [data-name="${name}"] dd`).textContent();
const digest = await fact(answer, 'digest');
check('its digest is verified in the browser', /^md5 [0-9a-f]{32}, verified here; the streamed text is the same$/.test(digest), digest);
check('it has a request id', /^[0-9a-f-]{36}$/.test(await fact(answer, 'request id')), await fact(answer, 'request id'));
const chunks = Number(await fact(answer, 'chunks'));
equal('its strip has a cell a chunk', await answer.locator('.strip rect').count(), chunks);
const label = await answer.locator('.strip svg').getAttribute('aria-label');
check('the strip has a name that says the same', label.startsWith(`${chunks} chunks in `), label);
const places = await answer.locator('.strip rect').evaluateAll((cells) => cells.map((cell) => Number(cell.getAttribute('x'))));
check('the cells are in the order of time', places.every((x, i) => i === 0 || x >= places[i - 1]), places);
await until(() => tracedChunks.has(chunks - 1));
check('the trace has as many chunks', chunks > 20 && Math.max(...tracedChunks) === chunks - 1, `${chunks}, not ${[...tracedChunks]}`);
equal('a chat leaves no error', page.problems, []);

// The same with a connection that is cut
const whole = await answer.locator('.answer').textContent();
const cut = page.getByRole('switch', { name: 'Cut the connection in the middle of the answer' });
await cut.focus();
await page.keyboard.press('Space');
await input.focus();
await page.keyboard.press('Enter');
const resumed = page.locator('#answers article').nth(1);
equal('a chat whose connection is cut is complete', await verdict(resumed), 'complete');
check('it says that it was cut', /went on where it was/.test(await resumed.locator('.verdict').textContent()), await resumed.textContent());
equal('its text is that of the whole one', await resumed.locator('.answer').textContent(), whole);
equal('it has as many chunks', Number(await fact(resumed, 'chunks')), chunks);
equal('it was cut in the middle', await fact(resumed, 'cut after'), '12 chunks');
check('by two requests', (await fact(resumed, 'resumed by')) !== (await fact(resumed, 'request id')), await resumed.textContent());
await cut.uncheck();
equal('a connection that is cut leaves no error', page.problems, []);

// What each button says on either side
const EXPECTED = {
  'Panic in mid-stream': ['failed', 'cut', /panic.*[0-9a-f-]{36}/, /no reason/],
  'Error in mid-stream': ['failed', 'cut', /[0-9a-f-]{36}/, /no reason/],
  'Corrupt download': ['cut', 'mismatch', /withheld/, /took it for a complete/],
  Hang: ['failed', 'left', /timeout/, /gave up/],
  'Slow reader': ['slow_reader', 'cut', /“slow_reader”, 0 before, 1 now/, /no figure/],
  'Lost connection': ['resumed', 'restarted', /40 words, none missing, none twice/, /\d+ words came twice/],
};
const cards = Object.keys(EXPECTED).map((name) => [name, page.getByRole('article', { name, exact: true })]);
async function press(name) {
  const button = page.getByRole('button', { name: `Try it: ${name}`, exact: true });
  await button.focus();
  await page.keyboard.press('Enter');
}
async function compare(name, card) {
  for (const [i, side] of ['layered', 'bare'].entries()) {
    const part = card.locator(`[data-side=${side}]`);
    equal(`${name}, ${side}`, await verdict(part), EXPECTED[name][i]);
    const text = await part.locator('.verdict').textContent();
    check(`${name}, ${side}: it says so`, EXPECTED[name][i + 2].test(text), text);
  }
}
// A browser opens six connections to a server at most, so one after the other.
for (const [name, card] of cards) {
  await press(name);
  await compare(name, card);
}
const events = page.getByRole('article', { name: 'Panic in mid-stream' }).locator('[data-side=layered]');
equal('the last event, which is not of the handler, is no chunk', await events.locator('.strip rect').count(), 6);
// The only errors are those of the requests that were broken.
const broken = page.problems.filter((problem) => !/net::ERR_\S+.*\((\S*\/(fail|promise|bytes|story)\?\S*)?\)/.test(problem));
equal('nothing else went wrong', broken, []);
const runs = (side) => page.getByRole('article', { name: 'Lost connection' }).locator(`[data-side=${side}] .facts [data-name="runs of the handler"] dd`);
equal('a resumed story is of one run of its handler', await runs('layered').textContent(), '1');
equal('and a request that is sent again starts another', await runs('bare').textContent(), '2');

// The live figures
const figure = (name) => page.locator(`#figures [data-name="${name}"] dd`).textContent();
check('the figures count the panic', Number(await figure('panic')) === 1, await figure('panic'));
check('the figures have quantiles', /^[\d.]+ m?s$/.test(await figure('gap p99')), await figure('gap p99'));
check('the heat map has columns for the indexes of chunks', (await page.locator('#heat th[scope=col]').count()) >= 5, '');

// Everybody can use it
const names = await page.getByRole('button').evaluateAll((buttons) => buttons.map((button) => button.getAttribute('aria-label') ?? button.textContent));
equal('each button has a name of its own', new Set(names).size, 8);
check('and none is without', names.every((name) => name.trim().length > 0), names);
await page.locator('body').press('Home');
await page.evaluate(() => document.activeElement.blur());
const reached = new Set();
for (let i = 0; i < 30; i += 1) {
  await page.keyboard.press('Tab');
  reached.add(await page.evaluate(() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim()));
}
check('the keyboard reaches each button', names.every((name) => reached.has(name)), [...reached]);
const unnamed = await page.evaluate(() =>
  [...document.querySelectorAll('input, [role=img], [role=region], [role=group], [role=log], section, article')].filter(
    (element) => !element.getAttribute('aria-label') && !element.getAttribute('aria-labelledby') && !element.labels?.length && !element.closest('#answers'),
  ).map((element) => element.outerHTML.slice(0, 80)),
);
equal('a screen reader has a name for each part', unnamed, []);

/** The lowest contrast of a text with what is behind it (WCAG 2.2, 1.4.3), and where. */
const lowestContrast = () => page.evaluate(() => {
  const parse = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, [r, g, b, a = 1]) => [r, g, b].map((c, i) => c * a + under[i] * (1 - a)), [255, 255, 255]);
  };
  let lowest = [99, ''];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.disabled) continue;
    const [x, y] = [luminance(parse(getComputedStyle(element).color)), luminance(ground(element))].sort((p, q) => q - p);
    const contrast = (x + 0.05) / (y + 0.05);
    if (contrast < lowest[0]) lowest = [contrast, element.outerHTML.slice(0, 80)];
  }
  return lowest;
});
const grounds = new Set();
for (const colorScheme of ['light', 'dark']) {
  await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
  const [contrast, where] = await lowestContrast();
  check(`${colorScheme}: each text is readable`, contrast >= 4.5, `${contrast} ${where}`);
  grounds.add(await page.evaluate(() => getComputedStyle(document.body).backgroundColor));
}
equal('light and dark differ', grounds.size, 2);
await page.emulateMedia({ colorScheme: 'light' });
await page.evaluate(() => {
  document.querySelector('#answers article').remove();
  document.activeElement.blur();
  scrollTo(0, 0);
});
await page.screenshot({ path: SCREENSHOT, clip: { x: 0, y: 0, width: 1200, height: 1000 }, fullPage: true });
check('the screenshot is small', statSync(SCREENSHOT).size < 200_000, statSync(SCREENSHOT).size);

for (const width of [360, 768]) {
  await page.setViewportSize({ width, height: 740 });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  check(`nothing is cut off at ${width} px`, wide <= width, wide);
}

// A drain, its end, and the server's return
const drained = page.getByRole('article', { name: 'Drain' });
await page.evaluate(() => {
  const state = document.getElementById('state');
  window.states = [];
  new MutationObserver(() => window.states.push(state.dataset.state)).observe(state, { childList: true });
});
await press('Drain');
EXPECTED.Drain = ['drained', 'cut', /come back in/, /no reason/];
const state = page.locator('#state');
await page.waitForFunction(() => window.states.includes('draining'));
check('the page says that the server drains', true);
await compare('Drain', drained);
await page.waitForFunction(() => document.getElementById('state').dataset.state === 'gone');
equal('the page says that the server is gone', await state.textContent(), 'The server does not answer. This page tries again until it is back.');
await page.locator('#chat').getByRole('button').click();
equal('a question that nobody answers says so', await verdict(page.locator('#answers article').last()), 'cut');
const second = await startDemo(server.at, server.admin, ['--advertise', '60s', '--deadline', '90s']);
await page.getByText('The server is serving.').waitFor();
check('the page comes back with the server', true);
await page.locator('#chat').getByRole('button').click();
equal('and so does the chat', await verdict(page.locator('#answers article').last()), 'complete');

// The stall guard waits 30 s by default, and the page less
EXPECTED['Slow reader'] = ['counted', 'unknown', /aborted/, /no figure/];
await press('Slow reader');
await compare('Slow reader', page.getByRole('article', { name: 'Slow reader' }));

// A page that is opened while the server drains; then the server dies
await page.evaluate(() => fetch('/drain', { method: 'POST' }));
const late = await open({}, 'draining');
check('a page that is opened during a drain says so', /draining|shuts down/.test(await late.locator('#state').textContent()), await late.locator('#state').textContent());
second.child.kill('SIGKILL');
await late.locator('#state[data-state=gone]').waitFor();
await late.getByRole('button', { name: 'Try it: Panic in mid-stream' }).click();
equal('a button says that the server is gone', await verdict(late.locator('#break-panic [data-side=layered]')), 'cut');
await startDemo(server.at, server.admin);
await late.locator('#state[data-state=active]').waitFor();
check('a page that was opened during a drain comes back', true);

await browser.close();
receiver.close();
process.exit();
