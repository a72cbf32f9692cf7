// Debian's Chromium, headless, driven by playwright-core.
import { chromium } from 'playwright-core';

/** Starts the browser. The arguments keep it from asking servers on the Internet, which cannot be reached in CI. */
export function launch() {
  return chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync',
    ],
  });
}

/** Opens an empty page of this origin, which need not serve one. Scripts in the page read the origin's streams without CORS. */
export async function emptyPage(browser, origin) {
  const page = await browser.newPage();
  await page.route('**/page.html', (route) => route.fulfill({ contentType: 'text/html', body: '<!doctype html>' }));
  await page.goto(`${origin}/page.html`);
  return page;
}
