// Failed webhooks, once they are archived; to be redriven one by one, several, or all.

const DEAD_LETTERS_MS = 4000;

function deadLetterRow(item, chosen, changed) {
  const { webhook_id: id, reference_id: reference, url, attempt_count: made, last_error: error, failed_at: failed, expires_at: expires } = item;
  const choose = ({ target }) => {
    if (target.checked) chosen.add(id);
    else chosen.delete(id);
    changed();
  };
  // What has no URL cannot be sent.
  const box = url && el('input', { type: 'checkbox', 'aria-label': `Choose ${reference}`, checked: chosen.has(id), onchange: choose });
  return el(
    'tr',
    null,
    el('td', { class: 'pick' }, box || null),
    whatCell(item),
    el('td', { class: 'result' }, error && [outcomeChip(error.status_code, error.kind), el('div', { class: 'faint wide' }, error.message)]),
    el('td', { class: 'number wide' }, count(made)),
    el('td', { class: 'when' }, failed && running('ago', failed)),
    el('td', { class: 'when wide' }, expires && running('until', expires)),
  );
}

/** Those that can be are redriven; who was redriven or deleted by somebody else meanwhile is left out. */
async function redriveChosen(chosen) {
  const ids = [...chosen];
  const text = `${plural(ids.length, 'webhook')} will be sent again, each with a fresh budget of attempts.`;
  if (!(await confirmed('Redrive what you have chosen?', text, 'Redrive'))) return null;
  let done = 0;
  for (const id of ids) {
    try {
      await post(`dead-letters/${encodeURIComponent(id)}/redrive`);
      done += 1;
    } catch (error) {
      if (!(error instanceof Refused) || ![404, 409].includes(error.status)) throw error;
    }
    chosen.delete(id);
    say(`${done} of ${ids.length} redriven`);
  }
  return `${plural(done, 'dead letter')} redriven`;
}

async function redriveAll(reference) {
  const which = reference ? `Every dead letter with the reference ${reference}` : 'Every dead letter there is';
  const text = `${which} will be sent again, however many there are, each with a fresh budget of attempts.`;
  if (!(await confirmed(reference ? 'Redrive all of this reference?' : 'Redrive all dead letters?', text, 'Redrive all'))) return null;
  let [done, cursor] = [0, ''];
  do {
    const answer = await post(`dead-letters/redrive?${query({ reference_id: reference, cursor })}`);
    done += answer.redriven;
    cursor = answer.next_cursor;
    say(`${count(done)} redriven so far`);
  } while (cursor);
  return `${plural(done, 'dead letter')} redriven`;
}

function deadLettersView(filters) {
  const form = filterForm('dead-letters', filters, [referenceInput(filters.reference_id)]);
  const chosen = new Set();
  const all = el('input', { type: 'checkbox', 'aria-label': 'Choose all on this page' });
  const columns = [[all, 'pick'], ['Webhook', 'what'], ['Why', ''], ['Attempts', 'number wide'], ['Failed', 'when'], ['Expires', 'when wide']];
  const rows = table('Dead letters, latest first', columns);
  const none = el('div', { hidden: true });
  const older = pager('dead-letters', filters);
  let refresh = null;
  const then = (run) => async () => {
    const done = await run();
    await refresh();
    return done;
  };
  const some = action('Redrive chosen', 'main', then(() => redriveChosen(chosen)));
  const every = action('Redrive all…', 'quiet', then(() => redriveAll(filters.reference_id)));
  const boxes = () => [...rows.body.querySelectorAll('input')];
  const changed = () => {
    some.textContent = chosen.size ? `Redrive chosen (${chosen.size})` : 'Redrive chosen';
    some.disabled = chosen.size === 0;
    const checked = boxes().filter((box) => box.checked).length;
    all.checked = checked > 0 && checked === boxes().length;
    all.indeterminate = checked > 0 && !all.checked;
  };
  all.addEventListener('change', () => {
    for (const box of boxes()) if (box.checked !== all.checked) box.click();
  });
  refresh = async () => {
    const { items, next } = await page('dead-letters', { ...filters, page_size: PAGE_SIZE });
    const there = new Set(items.map((item) => item.webhook_id));
    for (const id of chosen) if (!there.has(id)) chosen.delete(id);
    sync(rows.body, items, (item) => item.webhook_id, JSON.stringify, (item) => deadLetterRow(item, chosen, changed));
    changed();
    rows.box.hidden = items.length === 0;
    none.hidden = items.length > 0;
    every.disabled = items.length === 0;
    fill(none, empty(filters.reference_id || filters.cursor ? 'No dead letter matches.' : 'No dead letters. What fails for good is kept here for 30 days.'));
    older.show(next);
  };
  const head = el('div', { class: 'head' }, el('h1', { tabindex: -1 }, 'Dead letters'), el('div', { class: 'buttons' }, some, every));
  const root = [head, form, el('section', { class: 'panel flush', 'aria-label': 'Dead letters' }, rows.box, none), older];
  return { title: 'Dead letters', root, refresh, everyMs: DEAD_LETTERS_MS };
}
