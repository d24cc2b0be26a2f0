// One webhook: where it is, what happened to it, what it carries, and what can be done with it.

const BUSY_MS = 1000;
const FINISHED_MS = 5000;

const fact = (name, ...shown) => el('div', null, el('dt', null, name), el('dd', null, shown));

function facts(webhook, explained) {
  const { webhook_id: id, correlation_id: correlation, event_type: event, url, created_at: created, delivered_at: delivered } = webhook;
  const { attempt_count: made, max_attempts: granted, next_attempt_at: next, last_error: error } = webhook;
  const waits = next && !FINISHED.has(webhook.status);
  return el(
    'dl',
    { class: 'facts' },
    fact('URL', el('span', { class: 'mono' }, url || 'none: a queue message that could not be read')),
    fact('Webhook id', el('span', { class: 'mono' }, id), ' ', copying(id, 'Webhook id')),
    fact('Correlation id', el('span', { class: 'mono' }, correlation), ' ', copying(correlation, 'Correlation id')),
    event && fact('Event', event),
    fact('Accepted', moment(created), ' ', el('span', { class: 'faint' }, running('ago', created))),
    delivered && fact('Delivered', moment(delivered), ' ', el('span', { class: 'faint' }, `${duration(Date.parse(delivered) - Date.parse(created))} after it was accepted`)),
    fact('Attempts', `${made} of ${Math.max(made, granted)}`, ' ', el('span', { class: 'faint' }, budgetLine(explained, made))),
    waits && fact('Next attempt', running('until', next), ' ', el('span', { class: 'faint' }, moment(next, timeOfDay(next)))),
    error && fact('Last error', outcomeChip(error.status_code, error.kind), ' ', error.message),
  );
}

/** Asks the API for the payload once it is wanted. */
function payloadPanel(id) {
  const place = el('div', null, empty('…'));
  const panel = el('details', { class: 'panel' }, el('summary', null, 'Payload'), place);
  panel.addEventListener('toggle', async () => {
    if (!panel.open || panel.dataset.asked) return;
    panel.dataset.asked = 'yes';
    try {
      const text = memberText(await callText('GET', `webhook-status/${encodeURIComponent(id)}?include=payload`), 'payload');
      const bytes = new TextEncoder().encode(text).length;
      fill(place, el('p', { class: 'hint' }, plural(bytes, 'byte'), ' ', copying(text, 'Payload')), prettyJson(text));
    } catch (error) {
      delete panel.dataset.asked;
      fill(place, empty(error.message));
    }
  });
  return panel;
}

async function remove(webhook) {
  const { webhook_id: id, status } = webhook;
  const text = FINISHED.has(status)
    ? 'Its record, its payload and its dead letter are gone for good.'
    : 'It is still on its way. No attempt starts once it is deleted; one that is under way may still arrive.';
  if (!(await confirmed('Delete this webhook?', text, 'Delete', true))) return null;
  await call('DELETE', `webhook-status/${encodeURIComponent(id)}`);
  location.hash = '#/webhooks';
  return 'Deleted';
}

async function sendAgain(webhook, how, refresh) {
  const id = encodeURIComponent(webhook.webhook_id);
  const text = 'It goes on its way again with a fresh budget of attempts; their numbers go on. The destination sees the same webhook-id.';
  if (!(await confirmed(`${how === 'redrive' ? 'Redrive' : 'Resend'} this webhook?`, text, how === 'redrive' ? 'Redrive' : 'Resend'))) return null;
  await post(how === 'redrive' ? `dead-letters/${id}/redrive` : `webhooks/${id}/resend`);
  await refresh();
  return 'On its way again';
}

function buttons(webhook, explained, refresh) {
  const archived = webhook.status === 'failed' && explained.steps.at(-1)?.transition === 'archive';
  const again = archived ? 'redrive' : 'resend';
  const canGo = FINISHED.has(webhook.status) && webhook.url;
  return [
    canGo && action(archived ? 'Redrive' : 'Resend', 'main', () => sendAgain(webhook, again, refresh)),
    action('Delete', 'danger', () => remove(webhook)),
  ];
}

/** Other buttons. Where one had the focus, its like has it then, or else the heading. */
function replaceButtons(place, made, heading) {
  const had = place.contains(document.activeElement) ? document.activeElement.textContent : null;
  fill(place, made);
  if (had !== null) ([...place.children].find((button) => button.textContent === had) ?? heading).focus({ preventScroll: true });
}

function webhookView({ id }) {
  const path = encodeURIComponent(id);
  const head = el('div', { class: 'title' });
  const tools = el('div', { class: 'buttons' });
  const top = el('section', { class: 'panel', 'aria-label': 'Facts' });
  const life = el('section', { class: 'panel', 'aria-label': 'Life' });
  const steps = el('div');
  const name = el('h1', { tabindex: -1 }, id.slice(0, id.lastIndexOf('_')) || id);
  const state = el('span');
  // The heading stays the same element: it may have the focus.
  add(head, name, state);
  let [mark, asked] = [null, 0];
  const view = { title: name.textContent, root: [el('div', { class: 'head' }, head, tools), top, life, payloadPanel(id), steps], everyMs: BUSY_MS };
  view.refresh = async () => {
    asked += 1;
    const mine = asked;
    const [webhook, explained] = await Promise.all([get(`webhook-status/${path}`), get(`webhooks/${path}/explain`)]);
    // Somebody asked again meanwhile; or it went on between the two answers, and the next look sees both.
    if (mine !== asked || webhook.status !== explained.status) return;
    learnTime(explained.now);
    view.everyMs = FINISHED.has(webhook.status) ? FINISHED_MS : BUSY_MS;
    const seen = JSON.stringify([webhook, explained.steps, explained.next]);
    if (seen === mark) return;
    const open = steps.querySelector('details')?.open;
    mark = seen;
    name.textContent = webhook.reference_id;
    fill(state, badge(webhook.status));
    const kinds = `${webhook.status} ${explained.steps.at(-1)?.transition === 'archive'}`;
    if (tools.dataset.kinds !== kinds) {
      replaceButtons(tools, buttons(webhook, explained, view.refresh), name);
      tools.dataset.kinds = kinds;
    }
    fill(top, facts(webhook, explained));
    fill(life, el('h2', null, 'Life'), timeline(webhook, explained));
    fill(steps, transitions(explained));
    if (open) steps.querySelector('details').open = true;
  };
  return view;
}
