// The rows of the table of endings, as they are in the documentation and as they were seen.
import { readFileSync } from 'node:fs';

import { check } from './check.mjs';

export const endings = ['whole', 'failed', 'incomplete', 'drained', 'late'];

const table = readFileSync(new URL('../../../crates/errors/src/endings.md', import.meta.url), 'utf8').split('\n');

export function row(dialect, sdk, seen) {
  const line = `| ${[dialect, sdk, ...seen].join(' | ')} |`;
  check(`${dialect}, ${sdk}: endings.md has ${seen.join(', ')}`, table.includes(line), `it has no line ${line}`);
}
