// API calls. The page is the root of the API, so every URL is relative to the page's own path.

const ROOT = location.pathname.endsWith('/') ? location.pathname : `${location.pathname}/`;

/** The session storage entry for the API key. The page stores nothing else. */
const KEY = 'posthaste.key';

const REQUEST_TIMEOUT_MS = 15_000;

/** An unsuccessful response, with the API's own message. Status 0: no response at all. */
class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `The API returned status ${status}.`);
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
    const signal = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
    const options = {
      method,
      headers,
      body,
      signal,
      cache: 'no-store',
      credentials: 'same-origin',
    };
    const response = await fetch(ROOT + path, options);
    return { status: response.status, ok: response.ok, text: await response.text() };
  } catch {
    return { status: 0, ok: false, text: '{"detail":"Cannot reach the API."}' };
  }
}

function problemOf(response) {
  try {
    return JSON.parse(response.text);
  } catch {
    return {};
  }
}

/**
 * Returns the text of a successful response and throws `ApiError` for any other. A status in
 * `alsoOk` counts as success.
 *
 * If the API requires a key, this asks the operator for it and repeats the call. Concurrent calls
 * share one prompt.
 */
async function callText(method, path, { body, alsoOk = [] } = {}) {
  for (;;) {
    const sent = sessionStorage.getItem(KEY);
    const response = await request(method, path, body);
    if (response.status === 401) {
      // Another call may have stored a key in the meantime.
      if (sessionStorage.getItem(KEY) === sent) await askForKey(sent !== null);
      continue;
    }
    if (!response.ok && !alsoOk.includes(response.status)) {
      throw new ApiError(response.status, problemOf(response));
    }
    return response.text;
  }
}

/** Like `callText`, parsed as JSON. Returns null for an empty body. */
async function call(method, path, options) {
  const text = await callText(method, path, options);
  return text === '' ? null : JSON.parse(text);
}

const get = (path, options) => call('GET', path, options);
const post = (path, body) => call('POST', path, { body });

/** A query string such as `a=1&b=2`, without empty values. */
const query = (values) =>
  new URLSearchParams(Object.entries(values).filter(([, value]) => value)).toString();

let keyPrompt = null;

/** Prompts for an API key and stores it. */
function askForKey(wasRejected) {
  keyPrompt ??= new Promise((resolve) => {
    const dialog = $('key');
    const input = $('key-input');
    sessionStorage.removeItem(KEY);
    input.value = '';
    $('key-error').textContent = wasRejected
      ? 'The API rejected this key. Check it and try again.'
      : '';
    dialog.addEventListener(
      'close',
      () => {
        const key = input.value.trim();
        if (key) sessionStorage.setItem(KEY, key);
        input.value = '';
        $('forget').hidden = !key;
        keyPrompt = null;
        resolve();
      },
      { once: true },
    );
    dialog.showModal();
  });
  return keyPrompt;
}
