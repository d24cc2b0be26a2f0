// One webhook: its state, its timeline, its payload, and the actions on it.

const BUSY_MS = 1000;
const FINISHED_MS = 5000;

const fact = (name, ...shown) => el('div', null, el('dt', null, name), el('dd', null, shown));

/** A fact with a button that copies it. */
const copyable = (name, text) =>
  fact(name, el('span', { class: 'mono' }, text), ' ', copyButton(text, name));

/** A fact with a time and a remark. */
const timed = (name, time, remark) => fact(name, time, ' ', el('span', { class: 'faint' }, remark));

/** The earliest time of the next attempt. A pause or a rate can be later than the record says. */
function nextAttempt({ status, next_attempt_at: allowed }, { next }) {
  if (FINISHED.has(status)) return null;
  const isLater = status !== 'in_progress' && next.at && next.at > (allowed ?? '');
  return isLater ? next.at : allowed;
}

const noUrl = ({ endpoint_id: endpoint }) =>
  endpoint ? 'None (the endpoint was deleted)' : `None (${UNREADABLE.toLowerCase()})`;

function facts(webhook, explained) {
  const { event_type: event, url, created_at: created, delivered_at: delivered } = webhook;
  const { attempt_count: made, max_attempts: granted, last_error: error } = webhook;
  const { application_id: application, endpoint_id: endpoint } = webhook;
  const next = nextAttempt(webhook, explained);
  const latencyMs = Date.parse(delivered) - Date.parse(created);
  const chip = error && outcomeChip(error.status_code, error.kind);
  return el(
    'dl',
    { class: 'facts' },
    fact('URL', el('span', { class: 'mono' }, url || noUrl(webhook))),
    copyable('Webhook ID', webhook.webhook_id),
    copyable('Correlation ID', webhook.correlation_id),
    application && fact('Application', applicationLink(application)),
    endpoint && copyable('Endpoint', endpoint),
    event && fact('Event type', event),
    timed('Accepted', moment(created), relative('ago', created)),
    delivered &&
      timed('Delivered', moment(delivered), `${duration(latencyMs)} after it was accepted`),
    timed('Attempts', `${made} of ${Math.max(made, granted)}`, budgetLine(explained)),
    next && timed('Next attempt', relative('until', next), moment(next, timeOfDay(next))),
    error && fact('Last error', chip, ' ', error.message),
  );
}

/** A panel that loads the payload when the operator opens it. */
function payloadPanel(id) {
  const content = el('div', null, empty('Loading…'));
  const panel = el('details', { class: 'panel' }, el('summary', null, 'Payload'), content);
  panel.addEventListener('toggle', async () => {
    if (!panel.open || panel.dataset.requested) return;
    panel.dataset.requested = 'yes';
    try {
      const path = `webhook-status/${encodeURIComponent(id)}?include=payload`;
      const text = memberText(await callText('GET', path), 'payload');
      const bytes = new TextEncoder().encode(text).length;
      const size = el(
        'p',
        { class: 'hint' },
        plural(bytes, 'byte'),
        ' ',
        copyButton(text, 'Payload'),
      );
      fill(content, size, prettyJson(text));
    } catch (error) {
      delete panel.dataset.requested;
      fill(content, empty(error.message));
    }
  });
  return panel;
}

async function deleteWebhook(webhook) {
  const { webhook_id: id, status } = webhook;
  const text = FINISHED.has(status)
    ? 'This permanently deletes its record, its payload, and its dead letter.'
    : 'This webhook is not finished. No attempt starts after you delete it, but an attempt in ' +
      'progress can still reach the destination.';
  if (!(await confirmed('Delete this webhook?', text, 'Delete', true))) return null;
  await call('DELETE', `webhook-status/${encodeURIComponent(id)}`);
  location.hash = '#/webhooks';
  return 'Webhook deleted';
}

/** Sends a finished webhook again: a redrive for a dead letter, a resend for any other. */
async function sendAgain(webhook, isDeadLetter, refresh) {
  const id = encodeURIComponent(webhook.webhook_id);
  const label = isDeadLetter ? 'Redrive' : 'Resend';
  const text =
    'Posthaste sends it again with a new budget of attempts. Attempt numbers continue, and the ' +
    'destination receives the same webhook-id.';
  if (!(await confirmed(`${label} this webhook?`, text, label))) return null;
  await post(isDeadLetter ? `dead-letters/${id}/redrive` : `webhooks/${id}/resend`);
  await refresh();
  return isDeadLetter ? 'Webhook redriven' : 'Webhook resent';
}

function buttons(webhook, explained, refresh) {
  const isArchived = explained.steps.at(-1)?.transition === 'archive';
  const isDeadLetter = webhook.status === 'failed' && isArchived;
  const label = isDeadLetter ? 'Redrive' : 'Resend';
  const canBeSent = FINISHED.has(webhook.status) && webhook.url;
  return [
    canBeSent && action(label, 'main', () => sendAgain(webhook, isDeadLetter, refresh)),
    action('Delete', 'danger', () => deleteWebhook(webhook)),
  ];
}

/**
 * Replaces the buttons. If one had the focus, the new button with the same label gets it, else the
 * heading.
 */
function replaceButtons(parent, replacements, heading) {
  const hadFocus = parent.contains(document.activeElement);
  const label = document.activeElement?.textContent;
  fill(parent, replacements);
  if (!hadFocus) return;
  const same = [...parent.children].find((button) => button.textContent === label);
  (same ?? heading).focus({ preventScroll: true });
}

function webhookView({ id }) {
  const path = encodeURIComponent(id);
  const head = el('div', { class: 'title' });
  const tools = el('div', { class: 'buttons' });
  const details = section('Details', '');
  const history = section('Timeline', '');
  const steps = el('div');
  const name = el('h1', { tabindex: -1 }, id.slice(0, id.lastIndexOf('_')) || id);
  const status = el('span');
  // The heading element stays the same, since it can have the focus.
  add(head, name, status);
  let [shownState, requests] = [null, 0];
  const top = el('div', { class: 'head' }, head, tools);
  const root = [top, details, history, payloadPanel(id), steps];
  const view = { title: name.textContent, root, everyMs: BUSY_MS };

  const show = (webhook, explained) => {
    const isOpen = steps.querySelector('details')?.open;
    name.textContent = webhook.reference_id;
    fill(status, badge(webhook.status));
    const kinds = `${webhook.status} ${explained.steps.at(-1)?.transition === 'archive'}`;
    if (tools.dataset.kinds !== kinds) {
      replaceButtons(tools, buttons(webhook, explained, view.refresh), name);
      tools.dataset.kinds = kinds;
    }
    fill(details, facts(webhook, explained));
    fill(history, el('h2', null, 'Timeline'), timeline(webhook, explained));
    fill(steps, transitions(explained));
    if (isOpen) steps.querySelector('details').open = true;
  };
  view.refresh = async () => {
    requests += 1;
    const request = requests;
    const [webhook, explained] = await Promise.all([
      get(`webhook-status/${path}`),
      get(`webhooks/${path}/explain`),
    ]);
    // A newer request started, or the webhook changed between the two responses. The next refresh
    // shows both.
    if (request !== requests || webhook.status !== explained.status) return;
    learnServerTime(explained.now);
    view.everyMs = FINISHED.has(webhook.status) ? FINISHED_MS : BUSY_MS;
    const state = JSON.stringify([webhook, explained.steps, explained.next]);
    if (state === shownState) return;
    shownState = state;
    show(webhook, explained);
  };
  return view;
}
