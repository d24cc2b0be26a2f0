// External data is shown as text: it creates no elements and runs no scripts. Runs once with the
// page's content security policy and once without, so that the policy does not hide a fault.

import assert from 'node:assert/strict';
import {
  API,
  RECEIVER,
  accept,
  api,
  badge,
  deadLettered,
  open,
  until,
  view,
  viewOf,
  withBrowser,
} from './browser.mjs';

const EVIL =
  '<img src=x onerror="window.hit=1"></script><script>window.hit=2</script>' +
  '<svg onload="window.hit=3">';

/** Fails if external data created an element or ran a script. */
async function assertNothingRan(page, where) {
  const found = await page.evaluate(() => ({
    hit: window.hit,
    foreign: document.querySelectorAll(
      'img, iframe, object, embed, main script, main style, main svg [onload], [onerror], [onload]',
    ).length,
    scripts: document.scripts.length,
  }));
  assert.deepEqual(found, { hit: undefined, foreign: 0, scripts: 1 }, where);
}

async function walk(page, id, reference) {
  const isShown = (where) =>
    until(`${where} shows it as text`, async () =>
      (await page.locator('main').textContent()).includes('onerror='),
    );
  await page.goto(viewOf(id));
  await badge(page, 'failed');
  const excerpt = page.getByRole('region', { name: 'Response excerpt' }).first();
  assert.equal(await excerpt.textContent(), EVIL, 'the response, byte for byte');
  await page.getByText('Payload', { exact: true }).click();
  await until('the payload is shown', async () => (await page.locator('.json').count()) === 1);
  assert.deepEqual(JSON.parse(await page.locator('.json').textContent()), { [EVIL]: EVIL });
  await page.getByText(/^Transitions/).click();
  await page.locator('.facts', { hasText: 'onerror=' }).waitFor();
  await assertNothingRan(page, 'webhook');

  for (const list of ['webhooks', 'dead-letters']) {
    await page.goto(`${API}/#/${list}?reference_id=${reference}`);
    await page.getByRole('link', { name: reference }).waitFor();
    await isShown(list);
    await assertNothingRan(page, list);
  }
  // The address is external data too, and so is the API's message about it.
  for (const hash of [
    `#/webhooks?status=${encodeURIComponent(EVIL)}`,
    `#/webhooks?reference_id=${encodeURIComponent(EVIL)}`,
    `#/webhook/${encodeURIComponent(EVIL)}_x`,
  ]) {
    await page.goto(`${API}/${hash}`);
    await page.locator('#error-banner').waitFor();
    await assertNothingRan(page, hash);
  }
  await page.goto(`${API}/#/send`);
  await view(page, 'Send a test webhook');
  await page.getByLabel('URL').fill(`${EVIL}`);
  await page.getByRole('button', { name: 'Send' }).click();
  await until(
    'the API refuses that URL',
    async () => (await page.locator('#url-error').textContent()) !== '',
  );
  await assertNothingRan(page, 'send');
  await page.goto(`${API}/#/`);
  await page.getByRole('table', { name: 'Destinations' }).waitFor();
  await assertNothingRan(page, 'overview');
}

const id = await accept({
  url: `${RECEIVER}/markup?q='"onerror=window.hit=4`,
  reference_id: 'evil-1',
  event_type: 'order.paid',
  payload: { [EVIL]: EVIL },
});
await deadLettered(id);
assert.equal((await api('GET', `/webhook-status/${id}`)).body.attempts[0].response_excerpt, EVIL);
await withBrowser(async (browser) => {
  for (const bypassCSP of [false, true]) {
    const { page, context, check } = await open(browser, {
      bypassCSP,
      expected: [/status of (400|404|422)/],
    });
    await walk(page, id, 'evil-1');
    check();
    await context.close();
  }
});
