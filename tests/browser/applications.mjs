// An operator looks at a customer: the application, its endpoints, and a message with a delivery
// for each of them. Disables an endpoint and sees what that does.

import assert from 'node:assert/strict';
import { API, RECEIVER, api, badge, open, until, view, withBrowser } from './browser.mjs';

async function create(path, body, status) {
  const answer = await api(path.startsWith('PUT') ? 'PUT' : 'POST', path.split(' ')[1], body);
  assert.equal(answer.status, status, JSON.stringify(answer.body));
  return answer.body;
}

/** Creates an application with an endpoint that works and one that rejects everything. */
async function acme() {
  await create('PUT /applications/acme', { name: 'Acme Inc.' }, 201);
  const endpoint = (path, rest) =>
    create('POST /applications/acme/endpoints', { url: RECEIVER + path, ...rest }, 201);
  const works = await endpoint('/fine', { event_types: ['order.*'] });
  const rejects = await endpoint('/gone');
  return { works: works.endpoint_id, rejects: rejects.endpoint_id };
}

const publish = (reference) =>
  create(
    'POST /applications/acme/messages',
    { event_type: 'order.paid', payload: { reference }, reference_id: reference },
    202,
  );

await withBrowser(async (browser) => {
  const { page, check } = await open(browser);
  const { works, rejects } = await acme();
  const row = (text) => page.getByRole('row').filter({ hasText: text });

  await page.goto(`${API}/`);
  await page.getByRole('link', { name: 'Applications' }).click();
  await view(page, 'Applications');
  await row('Acme Inc.').getByRole('link', { name: 'acme' }).click();
  await view(page, 'acme');
  await row(works).getByText('enabled').waitFor();
  await row(works).getByText('order.*').waitFor();
  await row(rejects).getByText('all event types').waitFor();
  await page.getByText('No deliveries.').waitFor();

  await publish('order-1');
  const message = row('order-1');
  await message.getByText('delivered').waitFor();
  await message.getByText('failed').waitFor();
  assert.equal(await message.locator('.badge').count(), 2, 'a chip for each delivery');

  await row(rejects).getByRole('button', { name: 'Disable' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Disable' }).click();
  await row(rejects).getByText('disabled').waitFor();
  await publish('order-2');
  await row('order-2').getByText('delivered').waitFor();
  assert.equal(await row('order-2').locator('.badge').count(), 1, 'a disabled endpoint gets none');
  await row(rejects).getByRole('button', { name: 'Enable' }).click();
  await row(rejects).getByText('enabled').waitFor();

  await message.getByText('failed').click();
  await view(page, 'order-1');
  await badge(page, 'failed');
  await page.getByText('Endpoint', { exact: true }).locator('..').getByText(rejects).waitFor();
  await page.getByRole('link', { name: 'acme' }).click();
  await view(page, 'acme');
  await until('both messages are listed', async () => {
    const found = page.getByRole('table', { name: 'Messages' }).locator('tbody tr');
    return (await found.count()) === 2;
  });
  check();
});
