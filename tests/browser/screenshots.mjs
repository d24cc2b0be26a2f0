// Takes the screenshots for the docs and writes them to FOLDER. They show a stack with a few
// webhooks, or the stack at OF. If pngquant is installed (`apt-get install pngquant`), it
// compresses them.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { API, RECEIVER, accept, deadLettered, open, settled, withBrowser } from './browser.mjs';

const { FOLDER, OF } = process.env;
const ROOT = OF || API;

/** Creates webhooks in each state, if there is no other stack to show. */
async function fillIn() {
  for (let number = 0; number < 8; number += 1)
    await accept({
      url: `${RECEIVER}/orders`,
      reference_id: `order-${number}`,
      event_type: 'order.created',
      payload: { number },
    });
  const failed = await accept({
    url: `${RECEIVER}/mended-later`,
    reference_id: 'invoice-7',
    event_type: 'invoice.sent',
    payload: { invoice: 7 },
  });
  await deadLettered(failed);
  const late = await accept({
    url: `${RECEIVER}/down`,
    reference_id: 'order-9',
    payload: 9,
    retry: { base_delay_ms: 60_000 },
  });
  await settled(late, 'retrying');
}

/** The newest dead letter with several attempts, else the newest dead letter. */
async function toShow() {
  const { items } = await (await fetch(`${ROOT}/dead-letters?page_size=100`)).json();
  return (items.find((item) => item.attempt_count > 2) ?? items[0]).webhook_id;
}

const id = OF ? await toShow() : await fillIn().then(toShow);

const VIEWS = {
  overview: {
    hash: '#/',
    there: (page) => page.getByRole('table', { name: 'Destinations' }),
  },
  webhooks: { hash: '#/webhooks', there: (page) => page.locator('tbody tr').first() },
  webhook: {
    hash: `#/webhook/${id}`,
    there: (page) => page.getByRole('heading', { name: 'Archived as dead letter' }),
  },
  'dead-letters': { hash: '#/dead-letters', there: (page) => page.locator('tbody tr').first() },
};

const PICTURES = [
  ['overview', 'light', 1200, 760],
  ['overview', 'dark', 1200, 760],
  ['webhooks', 'light', 1200, 760],
  ['webhooks', 'dark', 1200, 760],
  ['webhook', 'light', 1200, 760],
  ['webhook', 'dark', 1200, 760],
  ['dead-letters', 'light', 1200, 760],
  ['dead-letters', 'dark', 1200, 760],
  ['webhook', 'light', 375, 812],
];

await withBrowser(async (browser) => {
  for (const [name, colorScheme, width, height] of PICTURES) {
    const { context, page, check } = await open(browser, {
      colorScheme,
      reducedMotion: 'reduce',
      viewport: { width, height },
    });
    await page.goto(`${ROOT}/${VIEWS[name].hash}`);
    await VIEWS[name].there(page).waitFor();
    await page.locator('.health', { hasText: 'healthy' }).waitFor();
    // A rate needs two samples.
    const rate = page
      .locator('.card', { has: page.getByRole('heading', { name: 'Attempts', exact: true }) })
      .locator('.value', { hasText: /\d/ });
    if (name === 'overview') await rate.waitFor();
    if (name === 'webhook') {
      await page.getByText('Payload', { exact: true }).click();
      await page.locator('.json').waitFor();
      await page.evaluate(() => window.scrollTo(0, 0));
    }
    const file = join(FOLDER, `${name}-${colorScheme}${width < 400 ? '-phone' : ''}.png`);
    writeFileSync(file, await page.screenshot({ fullPage: name === 'webhook' && width > 400 }));
    spawnSync('pngquant', [
      '--force',
      '--skip-if-larger',
      '--strip',
      '--speed',
      '1',
      '--output',
      file,
      file,
    ]);
    assert.ok(statSync(file).size > 5000, `${file} is not empty`);
    check();
    await context.close();
  }
});
