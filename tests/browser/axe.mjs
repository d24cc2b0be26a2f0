// Runs axe-core on every view and dialog, in light and dark, at desktop and phone width. Also
// checks that nothing is wider than the screen.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import {
  API,
  AXE,
  RECEIVER,
  accept,
  api,
  badge,
  deadLettered,
  open,
  settled,
  view,
  viewOf,
  withBrowser,
} from './browser.mjs';

const SOURCE = readFileSync(AXE, 'utf8');

/** WCAG 2.2 at level AA, and axe-core's best practices. */
const RULES = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];

/** Runs axe-core and returns its findings as texts. */
async function violations(page) {
  if (!(await page.evaluate(() => 'axe' in window))) await page.evaluate(SOURCE);
  const found = await page.evaluate(
    (values) => window.axe.run(document, { runOnly: { type: 'tag', values } }),
    RULES,
  );
  assert.ok(found.passes.length > 10, 'axe-core checked something');
  return found.violations.flatMap(({ id, impact, nodes }) =>
    nodes.map(({ target, failureSummary }) => `${id} (${impact}) ${target}: ${failureSummary}`),
  );
}

const ids = {
  delivered: await accept({
    url: `${RECEIVER}/fine`,
    reference_id: 'fine',
    event_type: 'order.paid',
    payload: { a: [1, 'b', null] },
  }),
  failed: await accept({ url: `${RECEIVER}/gone`, reference_id: 'gone', payload: 1 }),
};
await settled(ids.delivered, 'delivered');
await deadLettered(ids.failed);
ids.retrying = await accept({
  url: `${RECEIVER}/down`,
  reference_id: 'late',
  payload: 1,
  retry: { base_delay_ms: 600_000 },
});
await settled(ids.retrying, 'retrying');
// A pause.
ids.refused = await accept({ url: `${RECEIVER}/busy`, reference_id: 'refused', payload: 1 });
await settled(ids.refused, 'retrying');
// An application with a delivery for each of two endpoints, one of them disabled since.
await api('PUT', '/applications/acme', { name: 'Acme Inc.' });
for (const path of ['/fine', '/gone'])
  await api('POST', '/applications/acme/endpoints', { url: RECEIVER + path });
const published = await api('POST', '/applications/acme/messages', {
  event_type: 'order.paid',
  payload: 1,
  reference_id: 'published',
});
const [, rejecting] = published.body.deliveries;
await deadLettered(rejecting.delivery_id);
await api('POST', `/applications/acme/endpoints/${rejecting.endpoint_id}/disable`, {});
// Opens a circuit.
for (let number = 0; number < 3; number += 1)
  await accept({ url: `${RECEIVER}/down`, reference_id: `down-${number}`, payload: 1 });

/** Name, navigation, and an element that is there once the view has loaded. */
const VIEWS = [
  [
    'overview',
    (page) => page.goto(`${API}/#/`),
    (page) => page.getByRole('table', { name: 'Destinations' }).getByText('paused by 429'),
  ],
  [
    'webhooks',
    (page) => page.goto(`${API}/#/webhooks`),
    (page) => page.getByRole('link', { name: 'late' }),
  ],
  [
    'filtered',
    (page) => page.goto(`${API}/#/webhooks?reference_id=none`),
    (page) => page.getByText('No matching webhooks'),
  ],
  ['delivered', (page) => page.goto(viewOf(ids.delivered)), (page) => page.getByText('Delivered.')],
  [
    'failed',
    (page) => page.goto(viewOf(ids.failed)),
    (page) => page.getByRole('button', { name: 'Redrive' }),
  ],
  [
    'retrying',
    (page) => page.goto(viewOf(ids.retrying)),
    (page) => page.getByRole('heading', { name: 'Next' }),
  ],
  [
    'refused',
    (page) => page.goto(viewOf(ids.refused)),
    (page) => page.getByText('refused and not counted'),
  ],
  [
    'dead letters',
    (page) => page.goto(`${API}/#/dead-letters`),
    (page) => page.getByRole('link', { name: 'gone' }),
  ],
  [
    'applications',
    (page) => page.goto(`${API}/#/applications`),
    (page) => page.getByRole('link', { name: 'acme' }),
  ],
  [
    'application',
    (page) => page.goto(`${API}/#/application/acme`),
    (page) => page.getByRole('link', { name: 'failed' }),
  ],
  [
    'delivery',
    (page) => page.goto(viewOf(rejecting.delivery_id)),
    (page) => page.getByRole('button', { name: 'Delete' }),
  ],
  ['send', (page) => page.goto(`${API}/#/send`), (page) => page.getByLabel('URL')],
  [
    'not found',
    (page) => page.goto(`${API}/#/webhook/x_y`),
    (page) => page.locator('#error-banner'),
  ],
];

async function walk(page, found) {
  const look = async (where) => {
    found.push(...(await violations(page)).map((text) => `${where}: ${text}`));
    const tooWide = await page.evaluate(
      () => document.documentElement.scrollWidth - window.innerWidth,
    );
    if (tooWide > 0) found.push(`${where}: ${tooWide} pixels wider than the screen`);
  };
  for (const [name, go, there] of VIEWS) {
    await go(page);
    await there(page).waitFor();
    for (const summary of await page.locator('summary').all()) await summary.click();
    if (name === 'delivered') await page.locator('.json').waitFor();
    await look(name);
  }
  await page.goto(viewOf(ids.failed));
  await badge(page, 'failed');
  await page.getByRole('button', { name: 'Delete' }).click();
  await look('confirmation');
  await page.keyboard.press('Escape');
  // The key prompt, without a stack that requires a key.
  await page.route('**/webhook-statuses*', (route) =>
    route.fulfill({ status: 401, contentType: 'application/problem+json', body: '{}' }),
  );
  await page.goto(`${API}/#/webhooks`);
  await page.getByRole('dialog', { name: 'API key' }).waitFor();
  await look('key');
}

await withBrowser(async (browser) => {
  const found = [];
  for (const colorScheme of ['light', 'dark']) {
    for (const width of [1440, 375]) {
      const options = {
        colorScheme,
        reducedMotion: 'reduce',
        viewport: { width, height: 800 },
        expected: [/status of (401|404)/],
      };
      const { context, page, check } = await open(browser, options);
      const here = [];
      await walk(page, here);
      found.push(...here.map((text) => `${colorScheme} ${width}: ${text}`));
      check();
      await context.close();
    }
  }
  assert.deepEqual(found, []);
});
