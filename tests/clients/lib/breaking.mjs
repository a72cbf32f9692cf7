// A proxy whose connections break.
import { connect, createServer } from 'node:net';

import { DEMO_URL } from './check.mjs';

const demo = new URL(DEMO_URL);

/** A way to the demo server that breaks the first connections after so many bytes, in the middle of an event perhaps.
 *  `connections` has what was sent on each of them, also what the client did not get. */
export async function breaking(after) {
  const left = [...after];
  const connections = [];
  const server = createServer((client) => {
    const seen = { request: '', response: '' };
    connections.push(seen);
    const upstream = connect(demo.port, demo.hostname);
    let bytes = 0;
    const limit = left.shift() ?? Infinity;
    client.on('data', (data) => (seen.request += data.toString('latin1')));
    client.pipe(upstream);
    upstream.on('data', (data) => {
      seen.response += data.toString('latin1');
      const rest = limit - bytes;
      bytes += data.length;
      if (data.length < rest) return void client.write(data);
      client.write(data.subarray(0, rest), () => client.destroy());
      upstream.destroy();
    });
    upstream.on('end', () => client.end());
    for (const socket of [client, upstream]) socket.on('error', () => {});
    client.on('close', () => upstream.destroy());
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  return { url: `http://127.0.0.1:${server.address().port}`, broken: () => after.length - left.length, connections, server };
}
