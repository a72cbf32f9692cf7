// Node's own http and http2: the digest in the trailers, and a broken promise that is an error.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import http2 from 'node:http2';

import { DEMO_URL, check, equal } from '../lib/check.mjs';

console.log(`node ${process.version}`);

const md5 = (data) => createHash('md5').update(data).digest('hex');
const file = readFileSync(`${process.env.SERVED_FILES}/random.bin`);

/** Everything a client can learn of an answer; `error` is set when it was cut. */
function over1(path) {
  return new Promise((done) => {
    const chunks = [];
    const request = http.get(`${DEMO_URL}${path}`, { headers: { TE: 'trailers' } }, (response) => {
      const end = (error) =>
        done({ status: response.statusCode, headers: response.headers, trailers: response.trailers, body: Buffer.concat(chunks), error });
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('end', () => end(response.complete ? undefined : 'incomplete'));
      response.on('error', (error) => end(error.code));
    });
    request.on('error', (error) => done({ body: Buffer.alloc(0), error: error.code }));
  });
}

function over2(path) {
  return new Promise((done) => {
    const session = http2.connect(DEMO_URL);
    const stream = session.request({ ':path': path });
    const answer = { trailers: {} };
    const chunks = [];
    stream.on('response', (headers) => Object.assign(answer, { headers, status: headers[':status'] }));
    stream.on('trailers', (trailers) => (answer.trailers = trailers));
    stream.on('data', (chunk) => chunks.push(chunk));
    stream.on('error', (error) => (answer.error = error.code));
    stream.on('close', () => {
      session.close();
      done({ ...answer, body: Buffer.concat(chunks) });
    });
    stream.end();
  });
}

for (const [name, get] of [['http', over1], ['http2', over2]]) {
  const whole = await get('/files/random.bin');
  equal(`${name}: a file arrives whole`, [whole.error, md5(whole.body)], [undefined, md5(file)]);
  equal(`${name}: its digest is in the trailers`, whole.trailers['x-content-md5'], md5(file));
  equal(`${name}: so is Content-Digest`, whole.trailers['content-digest'], `md5=:${createHash('md5').update(file).digest('base64')}:`);

  const short = await get('/bytes?size=100');
  equal(`${name}: a short body has it in the head`, short.headers['x-content-md5'], md5(short.body));

  for (const length of [0, 1]) {
    const kept = await get(`/promise?size=1000000&length=${length}`);
    equal(`${name}: a kept promise, length=${length}`, [kept.error, kept.headers['x-content-md5']], [undefined, md5(kept.body)]);
    const broken = await get(`/promise?size=1000000&length=${length}&corrupt=1`);
    check(`${name}: a broken promise is an error, length=${length}`, broken.error !== undefined, 'it looked whole');
    console.log(`   ${broken.error} after ${broken.body.length} bytes`);
  }
  equal(`${name}: broken and short is a 502`, (await get('/promise?size=1000&corrupt=1')).status, 502);
}
