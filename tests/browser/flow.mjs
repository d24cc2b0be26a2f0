// An operator's workflow: sends a test webhook, follows it in the list, redrives dead letters,
// deletes a webhook, and reads the overview.

import assert from 'node:assert/strict';
import {
  API,
  RECEIVER,
  accept,
  api,
  badge,
  deadLettered,
  open,
  settled,
  until,
  view,
  viewOf,
  withBrowser,
} from './browser.mjs';

const PAYLOAD =
  '{"amount": 12345678901234567890, "twice": 1, "twice": 2, ' +
  '"items": [{"sku": "Zoë", "empty": {}}, []]}';
const PRETTY = `{
  "amount": 12345678901234567890,
  "twice": 1,
  "twice": 2,
  "items": [
    {
      "sku": "Zoë",
      "empty": {}
    },
    []
  ]
}`;

/** The form validates its input. The view shows the delivery and the payload as it was typed. */
async function sendsATest(page) {
  await page.goto(`${API}/`);
  await view(page, 'Overview');
  await page.getByRole('link', { name: 'Send a test' }).click();
  await view(page, 'Send a test webhook');
  await page.getByLabel('URL').fill('http://user:pass@127.0.0.1/');
  await page.getByLabel('Payload (JSON)').fill('{"no": ');
  await page.getByRole('button', { name: 'Send' }).click();
  await page.getByText('Invalid JSON').waitFor();
  await page.getByLabel('Payload (JSON)').fill(PAYLOAD);
  await page.getByRole('button', { name: 'Send' }).click();
  // The message is the API's own.
  await until('the URL is refused', async () =>
    /The URL .*user/i.test(await page.locator('#url-error').textContent()),
  );
  await page.getByLabel('URL').fill(`${RECEIVER}/fine`);
  await page.getByRole('button', { name: 'Send' }).click();
  await view(page, /^TEST-/);
  await badge(page, 'delivered');
  const life = page.getByRole('list', { name: 'Timeline' });
  await life.getByText('Delivered.').waitFor();
  assert.deepEqual(await life.getByRole('heading').allTextContents(), ['Accepted', 'Attempt 1']);
  await page.getByText('Payload', { exact: true }).click();
  assert.equal(await page.locator('.json').textContent(), PRETTY);
  await page.getByText(`${new TextEncoder().encode(PAYLOAD).length} bytes`).waitFor();
}

/** The list refreshes unless it is paused, and filters by status and reference. */
async function seesTheList(page) {
  await page.getByRole('link', { name: 'Webhooks', exact: true }).click();
  await view(page, 'Webhooks');
  const row = (text) => page.getByRole('row').filter({ hasText: text });
  await row('TEST-').waitFor();
  await accept({
    url: `${RECEIVER}/fine`,
    reference_id: 'live-1',
    event_type: 'order.paid',
    payload: 1,
  });
  await row('live-1').getByText('delivered').waitFor();
  assert.match(
    await page.getByRole('row').nth(1).textContent(),
    /live-1.*order\.paid/,
    'the newest comes first',
  );
  await page.getByRole('button', { name: 'Live' }).click();
  const asked = [];
  page.on('request', (request) => asked.push(new URL(request.url()).pathname));
  await accept({ url: `${RECEIVER}/fine`, reference_id: 'live-2', payload: 1 });
  // Runs the timers of half a minute.
  await page.clock.fastForward(30_000);
  await page.getByRole('button', { name: 'Paused' }).waitFor();
  assert.deepEqual(asked, [], 'a paused page sends no requests');
  await page.getByRole('button', { name: 'Paused' }).click();
  await row('live-2').waitFor();
  await page.getByLabel('Status').selectOption('failed');
  await page.getByText('No matching webhooks.').waitFor();
  await page.getByLabel('Status').selectOption('');
  await page.getByLabel('Reference ID or webhook ID').fill('live-1');
  await page.getByRole('button', { name: 'Search' }).click();
  await until('only live-1 is listed', async () => (await page.locator('tbody tr').count()) === 1);
  await row('live-1').waitFor();
}

/** The timeline explains the failure. After a redrive the webhook is delivered. */
async function redrivesOne(page) {
  const id = await accept({
    url: `${RECEIVER}/mended-later`,
    reference_id: 'invoice-7',
    payload: { invoice: 7 },
    retry: { base_delay_ms: 600 },
  });
  await page.goto(viewOf(id));
  await badge(page, 'failed');
  await page.getByRole('heading', { name: 'Archived as dead letter', exact: true }).waitFor();
  const life = page.getByRole('list', { name: 'Timeline' });
  assert.deepEqual(await life.getByRole('heading').allTextContents(), [
    'Accepted',
    'Attempt 1',
    'Attempt 2',
    'Attempt 3',
    'Archived as dead letter',
  ]);
  assert.equal(await life.locator('.code', { hasText: '503' }).count(), 3);
  assert.equal(await life.getByText('the stockroom is closed').count(), 3);
  assert.ok(
    (await life.getByText(/s later$/).count()) >= 2,
    'the waits between attempts are shown',
  );
  await page.getByText(/^Transitions/).click();
  await page.getByText('The retry policy allows no further attempt.').waitFor();

  await page.getByRole('link', { name: 'Dead letters' }).click();
  await page.getByRole('link', { name: 'invoice-7' }).click();
  await page.getByRole('button', { name: 'Redrive', exact: true }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByRole('button', { name: 'Cancel' }).click();
  assert.equal(
    (await api('GET', `/webhook-status/${id}`)).body.status,
    'failed',
    'a cancelled redrive redrives nothing',
  );
  await page.getByRole('button', { name: 'Redrive', exact: true }).click();
  await dialog.getByRole('button', { name: 'Redrive' }).click();
  await badge(page, 'delivered');
  await life.getByRole('heading', { name: 'Attempt 4' }).waitFor();
  await page.getByRole('link', { name: 'Dead letters' }).click();
  await page.getByText('No dead letters.').waitFor();
}

/** Redrives the selected dead letters, then all with a reference. */
async function redrivesMany(page) {
  const ids = [];
  for (let number = 0; number < 3; number += 1) {
    ids.push(await accept({ url: `${RECEIVER}/gone`, reference_id: 'batch', payload: number }));
  }
  await Promise.all(ids.map(deadLettered));
  const boxes = page.getByRole('checkbox', { name: 'Select batch' });
  await until('three are listed', async () => (await boxes.count()) === 3);
  await boxes.nth(0).check();
  await boxes.nth(1).check();
  await page.getByRole('button', { name: 'Redrive selected (2)' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Redrive' }).click();
  const counts = async () => {
    const found = await Promise.all(ids.map((id) => api('GET', `/webhook-status/${id}`)));
    return found
      .map(({ body }) => body.attempt_count)
      .sort()
      .join();
  };
  await until('two of three were attempted again', async () => (await counts()) === '1,2,2');
  await Promise.all(ids.map(deadLettered));
  await page.getByLabel('Reference ID or webhook ID').fill('batch');
  await page.getByRole('button', { name: 'Search' }).click();
  await until('three are listed again', async () => (await boxes.count()) === 3);
  await page.getByRole('button', { name: 'Redrive all' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Redrive all' }).click();
  await page.getByText('3 dead letters redriven').waitFor();
  await until('all were attempted again', async () => (await counts()) === '2,3,3');
  await Promise.all(ids.map(deadLettered));
  return ids[0];
}

async function deletes(page, id) {
  await page.goto(viewOf(id));
  await page.getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await view(page, 'Webhooks');
  assert.equal((await api('GET', `/webhook-status/${id}`)).status, 404);
  await until(
    'two are left',
    async () => (await page.getByRole('row').filter({ hasText: 'batch' }).count()) === 2,
  );
}

/** The figures of the webhooks so far, and the countdown of the oldest one that waits. */
async function seesTheOverview(page) {
  const waiting = await accept({
    url: `${RECEIVER}/down`,
    reference_id: 'late',
    payload: 1,
    retry: { base_delay_ms: 600_000 },
  });
  await settled(waiting, 'retrying');
  await page.goto(`${API}/#/`);
  const card = (name) =>
    page.locator('.card', { has: page.getByRole('heading', { name, exact: true }) });
  const value = async (name) => (await card(name).locator('.value').textContent()).trim();
  const accepted = (await api('GET', '/webhook-statuses?page_size=100')).body.items.length;
  await until(
    'accepted webhooks are counted',
    async () => (await value('Accepted')) === String(accepted),
  );
  await until('one waits', async () => (await value('Waiting')) === '1');
  await until('two have failed', async () => (await value('Failed')) === '2');
  await until('the rate is shown', async () => /^\d+(\.\d)? \/s$/.test(await value('Attempts')));
  await card('Oldest waiting').getByRole('link', { name: 'View webhook' }).waitFor();
  assert.match(await value('Oldest waiting'), /^\d/);
  const chart = page.getByRole('img');
  assert.match(
    await chart.getAttribute('aria-label'),
    new RegExp(
      `^${accepted} webhooks accepted in the last hour: \\d+ delivered, 1 waiting, 2 failed\\.`,
    ),
  );
  assert.ok((await chart.locator('rect.is-failed').count()) >= 1);
  const destinations = (await api('GET', '/destinations')).body.items;
  const shown = page.getByRole('table', { name: 'Destinations' }).getByRole('row').nth(1);
  await until('its figures are shown', async () =>
    (await shown.textContent()).includes(String(destinations[0].attempts)),
  );
  await card('Oldest waiting').getByRole('link', { name: 'View webhook' }).click();
  await view(page, 'late');
  const left = () => page.locator('.countdown time').textContent();
  const first = await left();
  assert.match(first, /^in \d+ min/);
  await until('it counts down', async () => (await left()) !== first);
}

/** A receiver refuses a request: the pause on the overview, and the webhook that waits. */
async function seesAPause(page) {
  const refused = await accept({ url: `${RECEIVER}/busy`, reference_id: 'refused', payload: 1 });
  await settled(refused, 'retrying');
  await page.goto(`${API}/#/`);
  const destinations = page.getByRole('table', { name: 'Destinations' });
  await destinations.getByText('paused by 429').waitFor();
  await destinations.getByText(/^for \d+ min/).waitFor();
  await destinations.getByText('Limit 500/1s').waitFor();
  const tile = page.locator('.card', {
    has: page.getByRole('heading', { name: 'Open circuits', exact: true }),
  });
  await tile.getByText('All circuits are closed, 1 target paused').waitFor();

  await page.goto(viewOf(refused));
  await page.getByText('1 attempt refused and not counted').waitFor();
  await page.getByText('Next attempt').locator('..').getByText(/^in 9 min/).waitFor();
  const life = page.getByRole('list', { name: 'Timeline' });
  await life.getByText(/answered 429 and asked to wait\. The attempt does not count\./).waitFor();
  await life.getByText(/Its URL is paused until .* because the destination answered 429/).waitFor();
  assert.deepEqual(await life.getByRole('heading').allTextContents(), [
    'Accepted',
    'Attempt 1',
    'Next',
  ]);
}

await withBrowser(async (browser) => {
  const { page, check } = await open(browser, { expected: [/status of (404|422)/] });
  // The clock runs normally and can be moved forward.
  await page.clock.install();
  await sendsATest(page);
  await seesTheList(page);
  await redrivesOne(page);
  await redrivesMany(page).then((id) => deletes(page, id));
  await seesTheOverview(page);
  await seesAPause(page);
  check();
});
