// The page prompts for an API key once, and stores it in the tab only.

import assert from 'node:assert/strict';
import { API, open, view, watch, withBrowser } from './browser.mjs';

const { KEY } = process.env;
const UNAUTHORIZED = [/status of 401/];

async function type(page, key) {
  await page.getByLabel('Key', { exact: true }).fill(key);
  await page.getByRole('button', { name: 'Continue' }).click();
}

await withBrowser(async (browser) => {
  const { context, page, check } = await open(browser, { expected: UNAUTHORIZED });
  const keyed = [];
  page.on('request', (request) =>
    keyed.push([request.method(), new URL(request.url()).pathname, request.headers()['x-api-key']]),
  );
  const document = await page.goto(`${API}/`);
  assert.equal(document.status(), 200, 'the page itself needs no key');
  const dialog = page.getByRole('dialog', { name: 'API key' });
  await dialog.waitFor();
  await page.keyboard.press('Escape');
  await dialog.waitFor();
  await type(page, 'not-the-key');
  await dialog.getByText('The API rejected this key.').waitFor();
  await type(page, KEY);
  await dialog.waitFor({ state: 'hidden' });
  const figures = () => page.locator('.empty', { hasText: 'No attempts in this' }).waitFor();
  await figures();
  assert.equal(await page.getByRole('alert').filter({ visible: true }).count(), 0);

  const kept = await page.evaluate(() => ({
    session: { ...sessionStorage },
    local: { ...localStorage },
    cookie: document.cookie,
    address: location.href,
  }));
  assert.deepEqual(kept, {
    session: { 'posthaste.key': KEY },
    local: {},
    cookie: '',
    address: `${API}/`,
  });
  assert.deepEqual(await context.cookies(), []);
  assert.ok(keyed.every(([, path]) => !path.includes(KEY)));
  assert.ok(keyed.some(([, path, key]) => path === '/metrics' && key === KEY));

  // One prompt per tab.
  await page.reload();
  await figures();
  assert.equal(await dialog.isVisible(), false);
  // Another tab has its own session.
  const other = await context.newPage();
  const errors = watch(other, UNAUTHORIZED);
  await other.goto(`${API}/#/webhooks`);
  await other.getByRole('dialog', { name: 'API key' }).waitFor();
  await type(other, KEY);
  await other.getByText('No webhooks yet.').waitFor();
  // Forgetting the key prompts again.
  await other.getByRole('button', { name: 'Forget key' }).click();
  await other.getByRole('dialog', { name: 'API key' }).waitFor();
  assert.deepEqual(await other.evaluate(() => ({ ...sessionStorage })), {});
  await view(page, 'Overview');
  assert.deepEqual(errors, []);
  check();
});
