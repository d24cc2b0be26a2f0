// Keyboard only: the focus is always visible, and is in the right place after each step.

import assert from 'node:assert/strict';
import { API, RECEIVER, badge, open, view, withBrowser } from './browser.mjs';

/** More than the tab stops of any view. */
const MAX_STOPS = 40;

/** The focused element's name, and whether its outline is visible. */
const focused = (page) =>
  page.evaluate(() => {
    const element = document.activeElement;
    const { outlineStyle, outlineWidth } = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    const label =
      element.labels?.[0]?.textContent ?? element.getAttribute('aria-label') ?? element.textContent;
    return {
      name: element === document.body ? '' : label.trim(),
      tag: element.tagName,
      shows:
        outlineStyle !== 'none' &&
        Number.parseFloat(outlineWidth) >= 2 &&
        box.width > 0 &&
        box.left >= 0,
    };
  });

/** Presses Tab until `name` has the focus. */
async function tabTo(page, name) {
  for (let stops = 0; stops < MAX_STOPS; stops += 1) {
    await page.keyboard.press('Tab');
    const at = await focused(page);
    if (at.tag === 'BODY') continue;
    assert.ok(at.shows, `the focus on ${at.tag} ${at.name} cannot be seen`);
    if (at.name === name) return;
  }
  assert.fail(`${name} cannot be reached by the tab key`);
}

const hasFocus = async (page, name) => assert.equal((await focused(page)).name, name);

async function go(page, name) {
  await tabTo(page, name);
  await page.keyboard.press('Enter');
}

/** The dialog takes the focus, traps it, and returns it when it closes. */
async function answers(page, button, yes) {
  const dialog = page.getByRole('dialog');
  await dialog.waitFor();
  await hasFocus(page, 'Cancel');
  await page.keyboard.press('Escape');
  await dialog.waitFor({ state: 'hidden' });
  await hasFocus(page, button);
  // The button is enabled once the page has handled the dialog's close event.
  await page.locator('button[aria-disabled]').waitFor({ state: 'detached' });
  await page.keyboard.press('Enter');
  await dialog.waitFor();
  assert.ok(await page.evaluate(() => document.activeElement.closest('dialog') !== null));
  await go(page, yes);
  await dialog.waitFor({ state: 'hidden' });
}

await withBrowser(async (browser) => {
  const { page, check } = await open(browser);
  await page.goto(`${API}/`);
  await view(page, 'Overview');
  await page.keyboard.press('Tab');
  assert.deepEqual(await focused(page), { name: 'Skip to content', tag: 'A', shows: true });
  await page.keyboard.press('Enter');
  assert.equal((await focused(page)).tag, 'MAIN');
  await page.goto(`${API}/#/webhooks`);
  await view(page, 'Webhooks');
  await go(page, 'Send a test');
  await view(page, 'Send a test webhook');
  await hasFocus(page, 'Send a test webhook');
  await tabTo(page, 'URL');
  await go(page, 'Send');
  // The invalid input has the focus.
  await hasFocus(page, 'URL');
  await page.keyboard.type(`${RECEIVER}/fine`);
  await page.keyboard.press('Enter');
  await view(page, /^TEST-/);
  await badge(page, 'delivered');
  const title = (await focused(page)).name;
  assert.match(title, /^TEST-/);

  await go(page, 'Resend');
  await answers(page, 'Resend', 'Resend');
  await page.getByRole('heading', { name: 'Attempt 2' }).waitFor();
  await badge(page, 'delivered');
  // The button disappeared and came back while the webhook was in progress.
  assert.ok(
    ['Resend', title].includes((await focused(page)).name),
    'the focus is not lost with a button',
  );
  await tabTo(page, 'Payload');
  await page.keyboard.press('Enter');
  await page.locator('.json').waitFor();
  await page.getByRole('heading', { level: 1 }).focus();
  await go(page, 'Delete');
  await answers(page, 'Delete', 'Delete');
  await view(page, 'Webhooks');
  await page.getByText('No webhooks yet.').waitFor();
  await hasFocus(page, 'Webhooks');
  check();
});
