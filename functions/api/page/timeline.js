// The timeline of one webhook, from its attempts and its transitions.

/** The transitions that end an attempt. A deferral with an attempt is a refusal by a pause. */
const OUTCOMES = new Set(['deliver', 'retry', 'fail', 'defer']);

/** Shorter waits are not shown. */
const MIN_WAIT_MS = 20;

/** The entries of the timeline in order. Each has a start and an end. */
function timelineEvents(webhook, explained) {
  const attempts = new Map(webhook.attempts.map((attempt) => [attempt.number, attempt]));
  const events = webhook.attempts.map((attempt) => {
    const at = Date.parse(attempt.started_at);
    const outcome = explained.steps.find(
      (step) => OUTCOMES.has(step.transition) && step.attempt === attempt.number,
    );
    return { kind: 'attempt', at, end: at + attempt.duration_ms, attempt, outcome };
  });
  for (const step of explained.steps) {
    // The attempt's own entry shows its claim and its outcome.
    const belongsToAttempt = OUTCOMES.has(step.transition) || step.transition === 'claim';
    if (belongsToAttempt && attempts.has(step.attempt)) continue;
    const at = Date.parse(step.at);
    events.push({ kind: step.transition === 'claim' ? 'running' : 'step', at, end: at, step });
  }
  const isAttempt = ({ kind }) => Number(kind === 'attempt');
  return events.sort((a, b) => a.at - b.at || isAttempt(a) - isAttempt(b));
}

function excerpt(text) {
  const attributes = { tabindex: 0, role: 'region', 'aria-label': 'Response excerpt' };
  const caption = el('figcaption', null, 'Response');
  return el('figure', { class: 'excerpt' }, caption, el('pre', attributes, text));
}

/** The text of an attempt's entry. */
function attemptText({ outcome, error }, step) {
  if (outcome === 'delivered') return 'Delivered.';
  if (step?.transition === 'defer') return step.why;
  const wasSent = !error?.message?.startsWith('nothing was sent');
  if (outcome === 'interrupted' && wasSent) {
    return 'Interrupted before its outcome was recorded. The request may have arrived.';
  }
  return error?.message ?? step?.why;
}

const entry = (kind, head, ...body) =>
  el('li', { class: `entry is-${kind}` }, el('div', { class: 'line' }, head), body);

function attemptEntry({ attempt, outcome: step }) {
  const { number, started_at: at, status_code: code, error, response_excerpt: response } = attempt;
  const head = [
    el('h3', null, `Attempt ${number}`),
    outcomeChip(code, error?.kind),
    el('span', { class: 'faint' }, duration(attempt.duration_ms)),
    moment(at, timeOfDay(at)),
  ];
  const text = attemptText(attempt, step);
  const kind = attempt.outcome === 'delivered' ? 'delivered' : 'failed';
  return entry(kind, head, text && el('p', null, text), response && excerpt(response));
}

/** The headings of transitions. The API's reason follows each. */
const STEP_NAMES = {
  create: 'Accepted',
  defer: 'Deferred',
  requeue: 'Requeued',
  adopt: 'Picked up by the sweep',
  archive: 'Archived as dead letter',
  resend: 'Resent',
  redrive: 'Redriven',
  fail: 'Failed',
  deliver: 'Delivered',
  retry: 'Retry scheduled',
};

/** Whether the heading says all that the reason says. */
const isSelfExplanatory = ({ transition, next_attempt_at: next }) =>
  transition === 'archive' || (transition === 'create' && !next);

function stepEntry({ kind, step }) {
  const isRunning = kind === 'running';
  const { transition, attempt, at, why } = step;
  const name = isRunning
    ? `Attempt ${attempt}`
    : (STEP_NAMES[transition] ?? withSpaces(transition));
  const isFailure = transition === 'archive' || transition === 'fail';
  const colour = isRunning ? 'in_progress' : isFailure ? 'failed' : 'quiet';
  const status = isRunning && badge('in_progress');
  const head = [el('h3', null, name), status, moment(at, timeOfDay(at))];
  return entry(colour, head, !isSelfExplanatory(step) && el('p', null, why));
}

function nextEntry(webhook, { next }) {
  if (FINISHED.has(webhook.status)) return null;
  const when = next.at && el('span', { class: 'countdown' }, relative('until', next.at));
  return entry('next', [el('h3', null, 'Next'), when], el('p', null, next.what));
}

/** The timeline as an ordered list. */
function timeline(webhook, explained) {
  const list = el('ol', { class: 'timeline', 'aria-label': 'Timeline' });
  let end = null;
  for (const event of timelineEvents(webhook, explained)) {
    const waitMs = end === null ? 0 : event.at - end;
    if (waitMs >= MIN_WAIT_MS) add(list, el('li', { class: 'wait' }, `${duration(waitMs)} later`));
    add(list, event.kind === 'attempt' ? attemptEntry(event) : stepEntry(event));
    end = event.end;
  }
  return add(list, nextEntry(webhook, explained));
}

function transitionRow({ at, function: actor, transition, from, to, why }) {
  const change = `${from ? `${withSpaces(from)} → ` : ''}${withSpaces(to)}`;
  return el(
    'tr',
    null,
    el('td', null, moment(at, timeOfDay(at))),
    el('td', null, actor),
    el('td', null, transition, el('div', { class: 'faint' }, change)),
    el('td', { class: 'why' }, why),
  );
}

/** The table of all transitions that `explain` returns. */
function transitions({ steps }) {
  const { box, body } = table('Transitions', [['Time'], ['Function'], ['Transition'], ['Reason']]);
  fill(body, steps.map(transitionRow));
  scrollable(box, 'Transitions');
  const summary = el('summary', null, `Transitions (${steps.length})`);
  return el('details', { class: 'panel' }, summary, box);
}

/** The used parts of the webhook's budget, where the number of attempts does not show them. */
function budgetLine({ budget, steps }) {
  const used = (name, format) => `${format(budget[name].used)} of ${format(budget[name].of)}`;
  const wasResent = steps.some(({ transition }) => /^re(send|drive)$/.test(transition));
  const parts = [
    // A resend starts a new budget but continues the attempt numbers.
    wasResent && `${used('attempts', count)} since it was resent`,
    budget.refused_attempts > 0 &&
      `${plural(budget.refused_attempts, 'attempt')} refused and not counted`,
    budget.interrupted_attempts.used > 0 && `${used('interrupted_attempts', count)} interruptions`,
    budget.rescues.used > 0 && `${used('rescues', count)} rescues`,
    budget.deferred_ms.used > 0 &&
      `deferred for ${used('deferred_ms', duration)} by an open circuit`,
    budget.host_deferred_ms.used > 0 &&
      `deferred for ${used('host_deferred_ms', duration)} by the destination's concurrency limit`,
    budget.paused_ms.used > 0 && `deferred for ${used('paused_ms', duration)} by pauses`,
    budget.rate_limited_ms.used > 0 &&
      `deferred for ${used('rate_limited_ms', duration)} by the configured rate`,
  ];
  return parts.filter(Boolean).join(', ');
}
