// The official OpenAI SDK (npm): a stream that fails in the middle throws, it does not end.
import OpenAI, { APIError } from 'openai';
import { VERSION } from 'openai/version';

import { DEMO_URL, check, equal } from '../lib/check.mjs';

console.log(`openai ${VERSION}, node ${process.version}`);

const client = new OpenAI({ baseURL: `${DEMO_URL}/v1`, apiKey: 'unused', maxRetries: 0, timeout: 20_000 });
let chunks = 0;
let error;
try {
  const stream = await client.chat.completions.create(
    { model: 'demo', stream: true, messages: [{ role: 'user', content: 'Tell me about the rabbit' }] },
    // a pace slower than the server's idle timeout: it gives up on its own model
    { query: { interval_ms: 60_000 } },
  );
  for await (const _ of stream) chunks += 1;
} catch (thrown) {
  error = thrown;
}
check('what came before the failure was read', chunks >= 1, chunks);
check("the SDK's own error type", error instanceof APIError, error);
equal('its code', error?.code, 'timeout');
check('its message', String(error?.message).includes('the response took too long'), error?.message);
