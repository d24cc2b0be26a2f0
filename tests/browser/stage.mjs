// Behind a gateway: the API is below a path of its host, with or without a trailing slash.

import assert from 'node:assert/strict';
import { API, RECEIVER, badge, open, view, withBrowser } from './browser.mjs';

const STAGE = '/prod';

await withBrowser(async (browser) => {
  for (const root of [STAGE, `${STAGE}/`]) {
    const { context, page, check } = await open(browser);
    const outside = [];
    // Like API Gateway: strips the stage from the path, and serves nothing outside of it.
    await context.route('**', async (route) => {
      const url = new URL(route.request().url());
      if (url.pathname !== STAGE && !url.pathname.startsWith(`${STAGE}/`)) {
        outside.push(url.href);
        return route.abort();
      }
      const path = url.pathname.slice(STAGE.length) || '/';
      return route.fulfill({ response: await route.fetch({ url: API + path + url.search }) });
    });
    await page.goto(API + root);
    await view(page, 'Overview');
    await page.locator('.health', { hasText: 'healthy' }).waitFor();
    await page.getByRole('link', { name: 'Send a test' }).click();
    await page.getByLabel('URL').fill(`${RECEIVER}/fine`);
    await page.getByRole('button', { name: 'Send' }).click();
    await badge(page, 'delivered');
    assert.deepEqual(outside, []);
    check();
    await context.close();
  }
});
