// The life of one webhook, from what the API tells of its attempts and of its transitions.

const CONCLUDES = new Set(['deliver', 'retry', 'fail']);

/** A wait shorter than this is no wait. */
const MIN_WAIT_MS = 20;

/** What the life is made of, in order: each has a time, and when it was over. */
function lifeOf(webhook, explained) {
  const attempts = new Map(webhook.attempts.map((attempt) => [attempt.number, attempt]));
  const events = webhook.attempts.map((attempt) => {
    const at = Date.parse(attempt.started_at);
    const then = explained.steps.find((step) => CONCLUDES.has(step.transition) && step.attempt === attempt.number);
    return { kind: 'attempt', at, over: at + attempt.duration_ms, attempt, then };
  });
  for (const step of explained.steps) {
    // What an attempt led to is told with it.
    if ((CONCLUDES.has(step.transition) || step.transition === 'claim') && attempts.has(step.attempt)) continue;
    const at = Date.parse(step.at);
    events.push({ kind: step.transition === 'claim' ? 'busy' : 'step', at, over: at, step });
  }
  return events.sort((a, b) => a.at - b.at || (a.kind === 'attempt') - (b.kind === 'attempt'));
}

const excerpt = (text) => el('figure', { class: 'excerpt' }, el('figcaption', null, 'Response'), el('pre', { tabindex: 0, role: 'region', 'aria-label': 'Response excerpt' }, text));

function attemptEntry({ attempt, then }) {
  const { number, started_at: at, duration_ms: took, outcome, status_code: code, error, response_excerpt: response } = attempt;
  const head = [el('h3', null, `Attempt ${number}`), outcomeChip(code, error?.kind), el('span', { class: 'faint' }, duration(took)), moment(at, timeOfDay(at))];
  const unsent = error?.message?.startsWith('nothing was sent');
  const word = { delivered: 'Delivered.', interrupted: unsent ? null : 'Ended without a recorded answer: it may have arrived.' }[outcome];
  const told = word ?? error?.message ?? (then ? then.why : null);
  return el('li', { class: `entry is-${outcome === 'delivered' ? 'delivered' : 'failed'}` }, el('div', { class: 'line' }, head), told && el('p', null, told), response && excerpt(response));
}

/** What a transition is called here; its reason follows in the API's words. */
const STEP_NAMES = {
  create: 'Accepted', defer: 'Put off', requeue: 'Queued again', adopt: 'Taken up', archive: 'Dead letter',
  resend: 'Resent', redrive: 'Redriven', fail: 'Given up', deliver: 'Delivered', retry: 'To be retried',
};

/** Reasons that say no more than the name does. */
const PLAIN = new Set(['Accepted.', 'It became a dead letter.']);

function stepEntry({ kind, step }) {
  const name = kind === 'busy' ? `Attempt ${step.attempt}` : (STEP_NAMES[step.transition] ?? inWords(step.transition));
  const colour = kind === 'busy' ? 'in_progress' : step.transition === 'archive' || step.transition === 'fail' ? 'failed' : 'quiet';
  const head = [el('h3', null, name), kind === 'busy' && badge('in_progress'), moment(step.at, timeOfDay(step.at))];
  return el('li', { class: `entry is-${colour}` }, el('div', { class: 'line' }, head), !PLAIN.has(step.why) && el('p', null, step.why));
}

function nextEntry(webhook, { next }) {
  if (FINISHED.has(webhook.status)) return null;
  const when = next.at && el('span', { class: 'countdown' }, running('until', next.at));
  return el('li', { class: 'entry is-next' }, el('div', { class: 'line' }, el('h3', null, 'Next'), when), el('p', null, next.what));
}

/** The timeline as an ordered list. */
function timeline(webhook, explained) {
  const list = el('ol', { class: 'timeline', 'aria-label': 'Timeline' });
  let over = null;
  for (const event of lifeOf(webhook, explained)) {
    const waited = over === null ? 0 : event.at - over;
    if (waited >= MIN_WAIT_MS) add(list, el('li', { class: 'wait' }, `${duration(waited)} later`));
    add(list, event.kind === 'attempt' ? attemptEntry(event) : stepEntry(event));
    over = event.over;
  }
  return add(list, nextEntry(webhook, explained));
}

/** Every transition as `explain` tells it. */
function transitions({ steps }) {
  const columns = [['Time'], ['Function'], ['Transition'], ['Why']];
  const { box, body } = table('Every transition', columns);
  const row = ({ at, function: who, transition, from, to, why }) =>
    el('tr', null, el('td', null, moment(at, timeOfDay(at))), el('td', null, who), el('td', null, transition, el('div', { class: 'faint' }, `${from ? `${inWords(from)} → ` : ''}${inWords(to)}`)), el('td', { class: 'why' }, why));
  fill(body, steps.map(row));
  scrollable(box, 'Every transition');
  return el('details', { class: 'panel' }, el('summary', null, `Every transition (${steps.length})`), box);
}

/** What is used up of what it may use, as far as the number of attempts does not say it. */
function budgetLine({ budget }, made) {
  const used = (name, words) => `${words(budget[name].used)} of ${words(budget[name].of)}`;
  const parts = [
    // After a resend the numbers go on, and the budget begins again.
    budget.attempts.used !== made && `${used('attempts', count)} since it was sent again`,
    budget.interrupted_attempts.used > 0 && `${used('interrupted_attempts', count)} interrupted`,
    budget.rescues.used > 0 && `${used('rescues', count)} rescues`,
    budget.deferred_ms.used > 0 && `put off for ${used('deferred_ms', duration)}`,
    budget.host_deferred_ms.used > 0 && `put off for its destination's other webhooks for ${used('host_deferred_ms', duration)}`,
  ];
  return parts.filter(Boolean).join(', ');
}
