// Elements that several views share.

const STATUSES = ['pending', 'in_progress', 'retrying', 'delivered', 'failed'];

const FINISHED = new Set(['delivered', 'failed']);

const TOAST_MS = 8000;

const UNREADABLE = 'Unreadable queue message';

const withSpaces = (name) => name.replaceAll('_', ' ');

const badge = (name) => el('span', { class: `badge is-${name}` }, withSpaces(name));

/** The status code of the response, or the kind of error if there was no response. */
function outcomeChip(code, kind) {
  if (code) {
    const outcome = code < 300 ? 'delivered' : 'failed';
    return el('span', { class: `code is-${outcome}` }, String(code));
  }
  return kind ? el('span', { class: 'code is-failed' }, withSpaces(kind)) : null;
}

const webhookLink = (id, text) => el('a', { href: `#/webhook/${encodeURIComponent(id)}` }, text);

/** A table cell with a webhook's reference ID, event type, and URL. */
function webhookCell(webhook) {
  const { webhook_id: id, reference_id: reference, event_type: event, url } = webhook;
  // A deleted endpoint has no URL.
  const destination = url || webhook.endpoint_id || UNREADABLE;
  const tag = event && el('span', { class: 'tag' }, event);
  return el(
    'td',
    { class: 'what' },
    el('div', { class: 'line' }, webhookLink(id, reference), tag),
    el('div', { class: 'url' }, destination),
  );
}

/** A table whose rows `sync` updates. `columns` are pairs of a heading and a class. */
function table(label, columns) {
  const head = columns.map(([text, kind]) => el('th', { scope: 'col', class: kind }, text));
  const body = el('tbody');
  const element = el(
    'table',
    { 'aria-label': label },
    el('thead', null, el('tr', null, head)),
    body,
  );
  return { box: el('div', { class: 'scroll' }, element), body };
}

/** Makes a box without focusable content scrollable by keyboard. */
const scrollable = (box, label) =>
  setAttributes(box, { tabindex: 0, role: 'region', 'aria-label': label });

const empty = (...text) => el('p', { class: 'empty' }, text);

const field = (label, input) =>
  el('p', { class: 'field' }, el('label', { for: input.id }, label), input);

const section = (label, kind, ...children) =>
  el('section', { class: `panel ${kind}`.trim(), 'aria-label': label }, children);

/** Confirms an action for a few seconds. Screen readers announce it. */
function showToast(text) {
  const toast = $('toast');
  toast.textContent = text;
  clearTimeout(showToast.timer);
  showToast.timer = setTimeout(() => (toast.textContent = ''), TOAST_MS);
}

/** Shows an error above the view until the error is cleared with null. */
function showError(text) {
  const banner = $('error-banner');
  banner.hidden = text === null;
  if (banner.textContent !== (text ?? '')) banner.textContent = text ?? '';
}

/** Asks for confirmation. `isDangerous` marks an action that cannot be undone. */
function confirmed(title, text, action, isDangerous = false) {
  const dialog = $('confirm');
  const yes = $('confirm-yes');
  $('confirm-title').textContent = title;
  $('confirm-text').textContent = text;
  yes.textContent = action;
  yes.className = isDangerous ? 'danger' : 'main';
  dialog.returnValue = 'no';
  dialog.showModal();
  return new Promise((resolve) => {
    const onClose = () => resolve(dialog.returnValue === 'yes');
    dialog.addEventListener('close', onClose, { once: true });
  });
}

/**
 * A button that runs `run`, ignores clicks while it runs, and shows the text that it returns or
 * the API's error.
 */
function action(label, kind, run) {
  const button = el('button', { type: 'button', class: kind }, label);
  let isBusy = false;
  button.addEventListener('click', async () => {
    if (isBusy) return;
    isBusy = true;
    button.setAttribute('aria-disabled', 'true');
    try {
      const text = await run();
      if (text) showToast(text);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      showToast(error.message);
    } finally {
      isBusy = false;
      button.removeAttribute('aria-disabled');
    }
  });
  return button;
}

/** A button that copies a text to the clipboard. */
const copyButton = (text, what) =>
  action('Copy', 'quiet small', async () => {
    try {
      await navigator.clipboard.writeText(text);
      return `${what} copied`;
    } catch {
      // Browsers allow this only over HTTPS and on localhost.
      return 'The browser blocked copying. Select the text and copy it manually.';
    }
  });
