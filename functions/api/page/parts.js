// What several views show.

const STATUSES = ['pending', 'in_progress', 'retrying', 'delivered', 'failed'];

const FINISHED = new Set(['delivered', 'failed']);

const inWords = (name) => name.replaceAll('_', ' ');

const badge = (name) => el('span', { class: `badge is-${name}` }, inWords(name));

/** A status code as the destination sent it, or the kind of an error where there was none. */
function outcomeChip(code, kind) {
  if (code) return el('span', { class: `code is-${code < 300 ? 'delivered' : 'failed'}` }, String(code));
  return kind ? el('span', { class: 'code is-failed' }, inWords(kind)) : null;
}

const webhookLink = (id, text) => el('a', { href: `#/webhook/${encodeURIComponent(id)}` }, text);

/** The reference, the event and the URL of a webhook, in two lines. */
function whatCell({ webhook_id: id, reference_id: reference, event_type: event, url }) {
  return el(
    'td',
    { class: 'what' },
    el('div', { class: 'line' }, webhookLink(id, reference), event && el('span', { class: 'tag' }, event)),
    el('div', { class: 'url' }, url || 'a queue message that could not be read'),
  );
}

/** A table whose rows `sync` keeps; `columns` are its headings, each with a class. */
function table(label, columns) {
  const head = columns.map(([text, kind, given]) => el('th', { scope: 'col', class: kind, ...given }, text));
  const body = el('tbody');
  const box = el('div', { class: 'scroll' }, el('table', { 'aria-label': label }, el('thead', null, el('tr', null, head)), body));
  return { box, body };
}

/** Nothing in it can have the focus, so it must itself, or it could not be scrolled by keys. */
const scrollable = (box, label) => attributes(box, { tabindex: 0, role: 'region', 'aria-label': label });

const empty = (...text) => el('p', { class: 'empty' }, text);

const field = (label, input, hint) =>
  el('p', { class: 'field' }, el('label', { for: input.id }, label), input, hint && el('span', { class: 'hint', id: `${input.id}-hint` }, hint));

/** Tells, for a while, what was done; read out by screen readers. */
function say(text) {
  const place = $('said');
  place.textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (place.textContent = ''), 8000);
}

/** Tells what is wrong until it no longer is; null: nothing is. */
function trouble(text) {
  const place = $('trouble');
  place.hidden = text === null;
  if (place.textContent !== (text ?? '')) place.textContent = text ?? '';
}

/** Asks whether to do it. `dangerous` cannot be undone. */
function confirmed(title, text, action, dangerous = false) {
  const dialog = $('confirm');
  const yes = $('confirm-yes');
  $('confirm-title').textContent = title;
  $('confirm-text').textContent = text;
  yes.textContent = action;
  yes.className = dangerous ? 'danger' : 'main';
  dialog.returnValue = 'no';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}

/** A button that does something at the API, once at a time, and says so or why not. */
function action(label, kind, run) {
  const button = el('button', { type: 'button', class: kind }, label);
  let isBusy = false;
  button.addEventListener('click', async () => {
    if (isBusy) return;
    isBusy = true;
    button.setAttribute('aria-disabled', 'true');
    try {
      const done = await run();
      if (done) say(done);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      say(error.message);
    } finally {
      isBusy = false;
      button.removeAttribute('aria-disabled');
    }
  });
  return button;
}

/** A button that copies a text. */
const copying = (text, what) =>
  action('Copy', 'quiet small', async () => {
    try {
      await navigator.clipboard.writeText(text);
      return `${what} copied`;
    } catch {
      // Not over plain HTTP, but to this machine.
      return 'The browser does not let this page copy';
    }
  });
