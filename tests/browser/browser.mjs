// What the scenarios share: a browser of their own, what it complains of, and waiting with a bound.
//
// A scenario is a file that a test of tests/tests/page starts by tests/src/browser.rs. It is told by its environment where the
// stack is (API), where the receiver is (RECEIVER), which browser to start (CHROMIUM) and where its packages are (BROWSER_TOOLS).

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const tools = createRequire(`${process.env.BROWSER_TOOLS}/`);
const { chromium } = tools('playwright-core');

/** Where axe-core's source is. */
export const AXE = tools.resolve('axe-core/axe.min.js');

export const { API, RECEIVER } = process.env;

/** For each wait; generous, since machines are busy. */
export const BOUND_MS = 60_000;

/** It talks to this machine only: any other name or address is not found, and nothing of its own is looked up. */
const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1',
];

/** Starts a browser with an empty profile, runs `scenario(browser)`, and ends it. */
export async function withBrowser(scenario) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: FLAGS });
  try {
    await scenario(browser);
  } finally {
    await browser.close();
  }
}

/**
 * A page in a context of its own. Whatever it complains of, such as an error, or a refusal by the content security policy, is gathered
 * and fails the scenario at `check`, unless it matches one of `expected`.
 */
export async function open(browser, options = {}) {
  const { expected = [], ...rest } = options;
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...rest });
  const page = await context.newPage();
  const complaints = watch(page, expected);
  return { context, page, check: () => assert.deepEqual(complaints, [], 'the browser complained') };
}

/** What a page complains of from now on. */
export function watch(page, expected = []) {
  const complaints = [];
  const note = (text) => {
    if (!expected.some((pattern) => pattern.test(text))) complaints.push(text);
  };
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) note(message.text());
  });
  page.on('pageerror', (error) => note(error.stack ?? String(error)));
  page.setDefaultTimeout(BOUND_MS);
  return complaints;
}

/** The view with this heading, once it is there. */
export const view = (page, heading) => page.getByRole('heading', { level: 1, name: heading }).waitFor();

/** Waits until `look` gives something true, and gives that. */
export async function until(what, look) {
  const deadline = Date.now() + BOUND_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > deadline) assert.fail(`${what}: not within ${BOUND_MS} ms`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A call of the API from outside of the page. */
export async function api(method, path, body) {
  const headers = body === undefined ? {} : { 'content-type': 'application/json' };
  const answer = await fetch(API + path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await answer.text();
  return { status: answer.status, body: text === '' ? null : JSON.parse(text) };
}

/** Has a webhook accepted, and gives its id. */
export async function accept(given) {
  const { status, body } = await api('POST', '/webhooks', given);
  assert.equal(status, 202, JSON.stringify(body));
  return body.webhook_id;
}

/** Waits until the API says that the webhook has this status. */
export const settled = (id, status) =>
  until(`${id} is ${status}`, async () => (await api('GET', `/webhook-status/${id}`)).body.status === status);

/** Waits until it is a dead letter. */
export const buried = (id) => until(`${id} is a dead letter`, async () => (await api('GET', `/dead-letters/${id}`)).status === 200);

/** The path of a webhook's view. */
export const viewOf = (id) => `${API}/#/webhook/${id}`;

/** The badge beside the heading. */
export const badge = (page, status) => page.locator('.title .badge', { hasText: status }).waitFor();
