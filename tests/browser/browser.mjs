// Shared by the scenarios: starts a browser, collects its errors, and waits with a time limit.
//
// A scenario is one file, which a test starts. The environment has the URLs of the stack (API) and
// of the receiver (RECEIVER), the path of the browser (CHROMIUM), and the folder with the npm
// packages (BROWSER_TOOLS).

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const tools = createRequire(`${process.env.BROWSER_TOOLS}/`);
const { chromium } = tools('playwright-core');

/** The path of axe-core's source. */
export const AXE = tools.resolve('axe-core/axe.min.js');

export const { API, RECEIVER } = process.env;

/** The limit of each wait. It is long, since test machines are busy. */
export const BOUND_MS = 60_000;

/** The browser reaches this machine only. It resolves no other name or address. */
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1',
];

/** Starts a browser with an empty profile, runs `scenario(browser)`, and closes the browser. */
export async function withBrowser(scenario) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: FLAGS });
  try {
    await scenario(browser);
  } finally {
    await browser.close();
  }
}

/**
 * Opens a page in a new context. `check` fails the scenario if the page reported an error, a
 * warning, or a violation of its content security policy that matches none of `expected`.
 */
export async function open(browser, options = {}) {
  const { expected = [], ...rest } = options;
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...rest });
  const page = await context.newPage();
  const errors = watch(page, expected);
  return {
    context,
    page,
    check: () => assert.deepEqual(errors, [], 'the browser reported errors'),
  };
}

/** Collects the errors and warnings of a page from now on. */
export function watch(page, expected = []) {
  const errors = [];
  const note = (text) => {
    if (!expected.some((pattern) => pattern.test(text))) errors.push(text);
  };
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) note(message.text());
  });
  page.on('pageerror', (error) => note(error.stack ?? String(error)));
  page.setDefaultTimeout(BOUND_MS);
  return errors;
}

/** Waits for the view with this heading. */
export const view = (page, heading) =>
  page.getByRole('heading', { level: 1, name: heading }).waitFor();

/** Waits until `look` returns a truthy value, and returns it. */
export async function until(what, look) {
  const deadline = Date.now() + BOUND_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > deadline) assert.fail(`${what}: not within ${BOUND_MS} ms`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Calls the API from outside the page. */
export async function api(method, path, body) {
  const headers = body === undefined ? {} : { 'content-type': 'application/json' };
  const answer = await fetch(API + path, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = await answer.text();
  return { status: answer.status, body: text === '' ? null : JSON.parse(text) };
}

/** Creates a webhook and returns its ID. */
export async function accept(given) {
  const { status, body } = await api('POST', '/webhooks', given);
  assert.equal(status, 202, JSON.stringify(body));
  return body.webhook_id;
}

/** Waits until the webhook has this status. */
export const settled = (id, status) =>
  until(
    `${id} is ${status}`,
    async () => (await api('GET', `/webhook-status/${id}`)).body.status === status,
  );

/** Waits until the webhook is a dead letter. */
export const deadLettered = (id) =>
  until(
    `${id} is a dead letter`,
    async () => (await api('GET', `/dead-letters/${id}`)).status === 200,
  );

/** The URL of a webhook's view. */
export const viewOf = (id) => `${API}/#/webhook/${id}`;

/** Waits for the status badge beside the heading. */
export const badge = (page, status) => page.locator('.title .badge', { hasText: status }).waitFor();
