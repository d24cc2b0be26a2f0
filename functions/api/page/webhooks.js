// The list of webhooks, newest first, with the API's filters.

const LIST_MS = 2000;

/** A filtered list can read as many records as an unfiltered one, so it is polled less often. */
const FILTERED_LIST_MS = 6000;

const PAGE_SIZE = 50;

/** The API may return short pages. This many are loaded before the operator has to continue. */
const MAX_SHORT_PAGES = 4;

const IS_WEBHOOK_ID = new RegExp(
  '^[\\w-]+_[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}' +
    '(\\.ep-[a-z2-7]{16})?$',
);

/** Loads a page of items. Combines several short pages of the API. */
async function loadPage(path, params) {
  let items = [];
  let cursor = params.cursor;
  for (let loaded = 0; loaded < MAX_SHORT_PAGES; loaded += 1) {
    const response = await get(`${path}?${query({ ...params, cursor })}`);
    items = items.concat(response.items);
    cursor = response.next_cursor;
    if (!cursor || items.length >= params.page_size / 2) break;
  }
  return { items, next: cursor };
}

/** Links to the next page and back to the first. */
function pager(view, filters) {
  const box = el('nav', { class: 'pager', 'aria-label': 'Pages' });
  const link = (cursor, text) => {
    const href = `#/${view}?${query({ ...filters, cursor })}`;
    return el('a', { class: 'button quiet', href }, text);
  };
  box.show = (next) => fill(box, filters.cursor && link('', 'Newest'), next && link(next, 'Older'));
  return box;
}

/** The filters as a form. Submitting it puts them into the page's address. */
function filterForm(view, inputs) {
  const fields = inputs.map(({ label, input }) => field(label, input));
  const button = el('p', { class: 'field' }, el('button', { class: 'quiet' }, 'Search'));
  const attributes = { class: 'filters', role: 'search', 'aria-label': 'Filters' };
  const form = el('form', attributes, fields, button);
  const apply = () => {
    const values = Object.fromEntries(inputs.map(({ name, input }) => [name, input.value.trim()]));
    const id = values.reference_id;
    if (IS_WEBHOOK_ID.test(id)) location.hash = `#/webhook/${encodeURIComponent(id)}`;
    else location.hash = `#/${view}?${query(values)}`;
  };
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    apply();
  });
  for (const { input } of inputs) {
    if (input.tagName === 'SELECT') input.addEventListener('change', apply);
  }
  return form;
}

function referenceInput(value) {
  const input = el('input', {
    id: 'by-reference',
    type: 'search',
    value: value ?? '',
    autocomplete: 'off',
    spellcheck: 'false',
  });
  return { name: 'reference_id', label: 'Reference ID or webhook ID', input };
}

function statusInput(selected) {
  const option = (value, text) =>
    el('option', { value, selected: value === (selected ?? '') }, text);
  const options = [option('', 'any'), STATUSES.map((name) => option(name, withSpaces(name)))];
  return { name: 'status', label: 'Status', input: el('select', { id: 'by-status' }, options) };
}

/** The outcome of the last attempt, and the time of the next. */
function resultCell({ status, attempts, last_error: error, next_attempt_at: next }) {
  const last = attempts.at(-1);
  const parts = [];
  if (last) {
    parts.push(outcomeChip(last.status_code, last.error?.kind));
    parts.push(el('span', { class: 'faint' }, duration(last.duration_ms)));
  } else if (error) parts.push(outcomeChip(null, error.kind));
  if (next && status !== 'in_progress' && Date.parse(next) > serverNow()) {
    parts.push(el('span', null, 'next ', relative('until', next)));
  }
  return el(
    'td',
    { class: 'result wide' },
    parts.map((part) => part && [part, ' ']),
  );
}

function webhookRow(webhook) {
  const { status, attempt_count: made, max_attempts: granted, created_at: created } = webhook;
  return el(
    'tr',
    null,
    el('td', { class: 'state' }, badge(status)),
    webhookCell(webhook),
    el('td', { class: 'number wide' }, `${made} of ${Math.max(made, granted)}`),
    resultCell(webhook),
    el('td', { class: 'when' }, relative('ago', created)),
  );
}

function noWebhooks(isFiltered, hasOlder) {
  if (!isFiltered) {
    const link = el('a', { href: '#/send' }, 'Send a test webhook');
    return empty('No webhooks yet. ', link, ' to see one here.');
  }
  const more = ' among the webhooks searched so far. Select Older to continue.';
  return empty('No matching webhooks', hasOlder ? more : '.');
}

function webhooksView(filters) {
  const isFiltered = Boolean(filters.reference_id || filters.status);
  const inputs = [referenceInput(filters.reference_id), statusInput(filters.status)];
  const columns = [
    ['Status', 'state'],
    ['Webhook', 'what'],
    ['Attempts', 'number wide'],
    ['Last attempt', 'wide'],
    ['Accepted', 'when'],
  ];
  const rows = table('Webhooks, newest first', columns);
  const none = el('div', { hidden: true });
  const pages = pager('webhooks', filters);
  const isFirstPage = !filters.cursor;
  const refresh = async () => {
    const params = { ...filters, page_size: PAGE_SIZE };
    const { items, next } = await loadPage('webhook-statuses', params);
    sync(rows.body, items, (item) => item.webhook_id, JSON.stringify, webhookRow);
    rows.box.hidden = items.length === 0;
    none.hidden = items.length > 0;
    fill(none, noWebhooks(isFiltered || !isFirstPage, Boolean(next)));
    pages.show(next);
  };
  const root = [
    el('h1', { tabindex: -1 }, 'Webhooks'),
    filterForm('webhooks', inputs),
    section('Webhooks', 'flush', rows.box, none),
    pages,
  ];
  // Older pages gain no webhooks, so they are polled less often.
  const everyMs = isFiltered || !isFirstPage ? FILTERED_LIST_MS : LIST_MS;
  return { title: 'Webhooks', root, refresh, everyMs };
}
