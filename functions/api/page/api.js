// Calls of the API. The page is its root, so every URL is relative to where the page came from, whatever stands before it.

const ROOT = location.pathname.endsWith('/') ? location.pathname : `${location.pathname}/`;

/** The name under which the tab keeps the key. Nothing else is kept. */
const KEY = 'posthaste.key';

/** How long an answer may take. */
const PATIENCE_MS = 15_000;

/** An answer that is not a success: in the API's own words, or none at all (status 0). */
class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `The API answered ${status}.`);
    this.status = status;
    this.fields = problem.errors ?? [];
  }
}

async function request(method, path, body) {
  const headers = { accept: 'application/json' };
  const key = sessionStorage.getItem(KEY);
  if (key) headers['x-api-key'] = key;
  if (body !== undefined) headers['content-type'] = 'application/json';
  try {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    const answer = await fetch(ROOT + path, { method, headers, body, signal, cache: 'no-store', credentials: 'same-origin' });
    return { status: answer.status, ok: answer.ok, text: await answer.text() };
  } catch {
    return { status: 0, ok: false, text: '{"detail":"The API does not answer."}' };
  }
}

function problemOf(answer) {
  try {
    return JSON.parse(answer.text);
  } catch {
    return {};
  }
}

/**
 * The text of a successful answer; else throws `Refused`. Where a key is asked for, it is had from the operator first and the call made
 * again: all calls that wait for it wait for the same question. A status in `alsoGood` is no failure.
 */
async function callText(method, path, { body, alsoGood = [] } = {}) {
  for (;;) {
    const sent = sessionStorage.getItem(KEY);
    const answer = await request(method, path, body);
    if (answer.status === 401) {
      // Another call may have had a key meanwhile.
      if (sessionStorage.getItem(KEY) === sent) await askForKey(sent !== null);
      continue;
    }
    if (!answer.ok && !alsoGood.includes(answer.status)) throw new Refused(answer.status, problemOf(answer));
    return answer.text;
  }
}

/** The same, read as JSON; null if there is none. */
async function call(method, path, options) {
  const text = await callText(method, path, options);
  return text === '' ? null : JSON.parse(text);
}

const get = (path, options) => call('GET', path, options);
const post = (path, body) => call('POST', path, { body });

/** `a=1&b=2`, without what is empty. */
const query = (given) => new URLSearchParams(Object.entries(given).filter(([, value]) => value)).toString();

let asking = null;

/** Has the operator type a key. */
function askForKey(wasWrong) {
  asking ??= new Promise((resolve) => {
    const dialog = $('key');
    const input = $('key-input');
    sessionStorage.removeItem(KEY);
    input.value = '';
    $('key-fault').textContent = wasWrong ? 'The API did not take that key.' : '';
    dialog.addEventListener(
      'close',
      () => {
        const key = input.value.trim();
        if (key) sessionStorage.setItem(KEY, key);
        input.value = '';
        $('forget').hidden = !key;
        asking = null;
        resolve();
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asking;
}
