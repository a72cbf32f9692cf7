// Used by the Node cases.

export const DEMO_URL = process.env.DEMO_URL;

/** Prints one result; `why` is shown if it is not good. */
export function check(what, good, why = '') {
  console.log(good ? `ok - ${what}` : `not ok - ${what}: ${why}`);
}

export function equal(what, got, wanted) {
  const [g, w] = [JSON.stringify(got), JSON.stringify(wanted)];
  check(what, g === w, `got ${g}, wanted ${w}`);
}

/** Milliseconds from the first time to the last: about 0 when a paced stream was held back and came at once. */
export function spread(times) {
  return times.length === 0 ? 0 : times.at(-1) - times[0];
}
