// The list of dead letters. The operator redrives the selected ones, or all.

const DEAD_LETTERS_MS = 4000;

function deadLetterRow(item, selected, onChange) {
  const { webhook_id: id, reference_id: reference, url, last_error: error } = item;
  const { attempt_count: made, failed_at: failed, expires_at: expires } = item;
  const select = ({ target }) => {
    if (target.checked) selected.add(id);
    else selected.delete(id);
    onChange();
  };
  const attributes = { type: 'checkbox', 'aria-label': `Select ${reference}`, onchange: select };
  // A dead letter without a URL cannot be sent.
  const box = url ? el('input', { ...attributes, checked: selected.has(id) }) : null;
  const reason = error && [
    outcomeChip(error.status_code, error.kind),
    el('div', { class: 'faint wide' }, error.message),
  ];
  return el(
    'tr',
    null,
    el('td', { class: 'pick' }, box),
    webhookCell(item),
    el('td', { class: 'result' }, reason),
    el('td', { class: 'number wide' }, count(made)),
    el('td', { class: 'when' }, failed && relative('ago', failed)),
    el('td', { class: 'when wide' }, expires && relative('until', expires)),
  );
}

/** Redrives the selected dead letters. Skips those that another operator redrove or deleted. */
async function redriveSelected(selected) {
  const ids = [...selected];
  const which = plural(ids.length, 'webhook');
  const text = `Posthaste sends ${which} again, each with a new budget of attempts.`;
  if (!(await confirmed('Redrive the selected dead letters?', text, 'Redrive'))) return null;
  let redriven = 0;
  for (const id of ids) {
    try {
      await post(`dead-letters/${encodeURIComponent(id)}/redrive`);
      redriven += 1;
    } catch (error) {
      if (!(error instanceof ApiError) || ![404, 409].includes(error.status)) throw error;
    }
    selected.delete(id);
    showToast(`${redriven} of ${ids.length} redriven`);
  }
  return `${plural(redriven, 'dead letter')} redriven`;
}

async function redriveAll(reference) {
  const [title, which] = reference
    ? ['Redrive all dead letters of this reference?', `with the reference ID ${reference}`]
    : ['Redrive all dead letters?', 'on every page'];
  const text =
    `Posthaste sends every dead letter ${which} again, ` + 'each with a new budget of attempts.';
  if (!(await confirmed(title, text, 'Redrive all'))) return null;
  let [redriven, cursor] = [0, ''];
  do {
    const response = await post(
      `dead-letters/redrive?${query({ reference_id: reference, cursor })}`,
    );
    redriven += response.redriven;
    cursor = response.next_cursor;
    showToast(`${count(redriven)} redriven so far`);
  } while (cursor);
  return `${plural(redriven, 'dead letter')} redriven`;
}

const noDeadLetters = (isFiltered) =>
  empty(
    isFiltered
      ? 'No matching dead letters.'
      : 'No dead letters. Webhooks that fail permanently are kept here for 30 days.',
  );

/** The table, its checkboxes, and the selection. */
function deadLetterTable(onChange) {
  const selected = new Set();
  const all = el('input', { type: 'checkbox', 'aria-label': 'Select all on this page' });
  const columns = [
    [all, 'pick'],
    ['Webhook', 'what'],
    ['Last error', ''],
    ['Attempts', 'number wide'],
    ['Failed', 'when'],
    ['Expires', 'when wide'],
  ];
  const { box, body } = table('Dead letters, newest first', columns);
  const boxes = () => [...body.querySelectorAll('input')];
  const changed = () => {
    const checked = boxes().filter((input) => input.checked).length;
    all.checked = checked > 0 && checked === boxes().length;
    all.indeterminate = checked > 0 && !all.checked;
    onChange(selected.size);
  };
  all.addEventListener('change', () => {
    for (const input of boxes()) if (input.checked !== all.checked) input.click();
  });
  const show = (items) => {
    const shown = new Set(items.map((item) => item.webhook_id));
    for (const id of selected) if (!shown.has(id)) selected.delete(id);
    const row = (item) => deadLetterRow(item, selected, changed);
    sync(body, items, (item) => item.webhook_id, JSON.stringify, row);
    changed();
    box.hidden = items.length === 0;
  };
  return { box, show, selected };
}

function deadLettersView(filters) {
  const none = el('div', { hidden: true });
  const pages = pager('dead-letters', filters);
  let refresh = null;
  const thenRefresh = (run) => async () => {
    const text = await run();
    await refresh();
    return text;
  };
  let rows = null;
  const some = action(
    'Redrive selected',
    'main',
    thenRefresh(() => redriveSelected(rows.selected)),
  );
  rows = deadLetterTable((number) => {
    some.textContent = number ? `Redrive selected (${number})` : 'Redrive selected';
    some.disabled = number === 0;
  });
  const every = action(
    'Redrive all',
    'quiet',
    thenRefresh(() => redriveAll(filters.reference_id)),
  );
  refresh = async () => {
    const { items, next } = await loadPage('dead-letters', { ...filters, page_size: PAGE_SIZE });
    rows.show(items);
    none.hidden = items.length > 0;
    every.disabled = items.length === 0;
    fill(none, noDeadLetters(filters.reference_id || filters.cursor));
    pages.show(next);
  };
  const head = el(
    'div',
    { class: 'head' },
    el('h1', { tabindex: -1 }, 'Dead letters'),
    el('div', { class: 'buttons' }, some, every),
  );
  const form = filterForm('dead-letters', [referenceInput(filters.reference_id)]);
  const root = [head, form, section('Dead letters', 'flush', rows.box, none), pages];
  return { title: 'Dead letters', root, refresh, everyMs: DEAD_LETTERS_MS };
}
