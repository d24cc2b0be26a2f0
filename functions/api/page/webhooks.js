// The list of webhooks, newest first, with the API's filters.

const LIST_MS = 2000;

/** A filtered list may cost the store as much as all of it. */
const FILTERED_LIST_MS = 6000;

const PAGE_SIZE = 50;

/** A page may be short and still have a next one: that many are asked for in a row before the operator has to. */
const MAX_SHORT_PAGES = 4;

const IS_WEBHOOK_ID = /^[\w-]+_[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** Items from `path` on: those of several short pages, if need be. */
async function page(path, given) {
  let items = [];
  let cursor = given.cursor;
  for (let asked = 0; asked < MAX_SHORT_PAGES; asked += 1) {
    const answer = await get(`${path}?${query({ ...given, cursor })}`);
    items = items.concat(answer.items);
    cursor = answer.next_cursor;
    if (!cursor || items.length >= given.page_size / 2) break;
  }
  return { items, next: cursor };
}

/** Where the list goes on, and back to its beginning. */
function pager(view, filters) {
  const box = el('nav', { class: 'pager', 'aria-label': 'Pages' });
  const to = (given, text) => el('a', { class: 'button quiet', href: `#/${view}?${query({ ...filters, ...given })}` }, text);
  box.show = (next) => fill(box, filters.cursor && to({ cursor: '' }, 'Newest'), next && to({ cursor: next }, 'Older'));
  return box;
}

/** Filters as a form; what is chosen becomes the page's address. */
function filterForm(view, filters, inputs) {
  const form = el('form', { class: 'filters', role: 'search', 'aria-label': 'Filter' }, inputs.map(({ label, input }) => field(label, input)));
  add(form, el('p', { class: 'field' }, el('button', { class: 'quiet' }, 'Show')));
  const show = () => {
    const given = Object.fromEntries(inputs.map(({ name, input }) => [name, input.value.trim()]));
    if (IS_WEBHOOK_ID.test(given.reference_id)) location.hash = `#/webhook/${encodeURIComponent(given.reference_id)}`;
    else location.hash = `#/${view}?${query(given)}`;
  };
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    show();
  });
  for (const { input } of inputs) if (input.tagName === 'SELECT') input.addEventListener('change', show);
  return form;
}

const referenceInput = (value) => ({
  name: 'reference_id',
  label: 'Reference or webhook id',
  input: el('input', { id: 'by-reference', type: 'search', value: value ?? '', autocomplete: 'off', spellcheck: 'false' }),
});

function statusInput(chosen) {
  const option = (value, text) => el('option', { value, selected: value === (chosen ?? '') }, text);
  const options = [option('', 'any'), STATUSES.map((name) => option(name, inWords(name)))];
  return { name: 'status', label: 'Status', input: el('select', { id: 'by-status' }, options) };
}

/** How its latest attempt ended, and what comes. */
function resultCell({ status, attempts, last_error: error, next_attempt_at: next }) {
  const last = attempts.at(-1);
  const parts = [last && outcomeChip(last.status_code, last.error?.kind), last && el('span', { class: 'faint' }, duration(last.duration_ms))];
  if (!last && error) parts.push(outcomeChip(null, error.kind));
  if (next && status !== 'in_progress' && Date.parse(next) > serverNow()) parts.push(el('span', null, 'next ', running('until', next)));
  return el('td', { class: 'result wide' }, parts.map((part) => part && [part, ' ']));
}

function webhookRow(webhook) {
  const { status, attempt_count: made, max_attempts: granted, created_at: created } = webhook;
  return el(
    'tr',
    null,
    el('td', { class: 'state' }, badge(status)),
    whatCell(webhook),
    el('td', { class: 'number wide' }, `${made} of ${Math.max(made, granted)}`),
    resultCell(webhook),
    el('td', { class: 'when' }, running('ago', created)),
  );
}

function webhooksView(filters) {
  const isFiltered = Boolean(filters.reference_id || filters.status);
  const form = filterForm('webhooks', filters, [referenceInput(filters.reference_id), statusInput(filters.status)]);
  const columns = [['Status', 'state'], ['Webhook', 'what'], ['Attempts', 'number wide'], ['Latest', 'wide'], ['Accepted', 'when']];
  const rows = table('Webhooks, newest first', columns);
  const none = el('div', { hidden: true });
  const older = pager('webhooks', filters);
  const refresh = async () => {
    const { items, next } = await page('webhook-statuses', { ...filters, page_size: PAGE_SIZE });
    sync(rows.body, items, (item) => item.webhook_id, JSON.stringify, webhookRow);
    rows.box.hidden = items.length === 0;
    none.hidden = items.length > 0;
    const where = next ? ' among those that were looked at; there are older ones.' : '.';
    fill(none, isFiltered || filters.cursor ? empty('No webhook matches', where) : empty('No webhooks yet. ', el('a', { href: '#/send' }, 'Send a test'), ' to see one.'));
    older.show(next);
  };
  const root = [el('h1', { tabindex: -1 }, 'Webhooks'), form, el('section', { class: 'panel flush', 'aria-label': 'Webhooks' }, rows.box, none), older];
  // What is older than a page changes, but nothing is added to it.
  return { title: 'Webhooks', root, refresh, everyMs: isFiltered || filters.cursor ? FILTERED_LIST_MS : LIST_MS };
}
