// The overview. It polls cheap figures often, and the others only after a change.

const FIGURES_MS = 3000;

/** The shortest and the longest time between two calls of `/overview` and `/destinations`. */
const HOUR_MS = 10_000;
const MAX_HOUR_MS = 60_000;

/** The rate is averaged over at least this long, so that it stays steady. */
const RATE_WINDOW_MS = 12_000;

/** `GET /destinations` returns at most this many. */
const MAX_DESTINATIONS = 100;

/** A destination can have many targets. The row shows the worst ones. */
const MAX_TARGETS_SHOWN = 4;

/** Parses Prometheus text into a map from each name with its labels to its number. */
function parseMetrics(text) {
  const samples = new Map();
  for (const line of text.split('\n')) {
    const at = line.lastIndexOf(' ');
    if (line[0] !== '#' && at > 0) samples.set(line.slice(0, at), Number(line.slice(at + 1)));
  }
  return samples;
}

/**
 * Reads the number of attempts by outcome and of webhooks by status from `/metrics`. Returns null
 * if metrics are disabled.
 */
async function loadFigures() {
  let text;
  try {
    text = await callText('GET', 'metrics');
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
  const samples = parseMetrics(text);
  const sample = (name) => samples.get(name) ?? 0;
  const byName = (names, key) => Object.fromEntries(names.map((name) => [name, sample(key(name))]));
  const attempts = byName(
    ['delivered', 'retrying', 'failed'],
    (name) => `webhook_delivery_total{status="${name}",worker_id="deliver"}`,
  );
  const webhooks = byName(STATUSES, (name) => `redis_webhook_keys{status="${name}"}`);
  const isPaused = ([name, value]) => name.startsWith('webhook_target_paused{') && value > 0;
  const paused = [...samples].filter(isPaused).length;
  return { at: Date.now(), attempts, webhooks, paused };
}

const totalAttempts = ({ attempts }) => attempts.delivered + attempts.retrying + attempts.failed;

function card(label, href) {
  const value = el('p', { class: 'value' }, '–');
  const note = el('p', { class: 'note' }, '\u00a0');
  const name = href ? el('a', { href }, label) : label;
  const box = el('div', { class: 'card' }, el('h2', null, name), value, note);
  const show = (shown, text, kind = '') => {
    box.className = `card ${kind}`;
    fill(value, shown);
    fill(note, text ?? '\u00a0');
  };
  return { box, show };
}

/** Adds figures to the history and returns the rate over the window, or null if unknown. */
function attemptRate(history, figures) {
  // The counter went back, so these figures come from another store.
  if (history.length && totalAttempts(figures) < totalAttempts(history.at(-1))) history.length = 0;
  history.push(figures);
  while (history.length > 2 && figures.at - history[1].at >= RATE_WINDOW_MS) history.shift();
  const elapsedMs = figures.at - history[0].at;
  const made = totalAttempts(figures) - totalAttempts(history[0]);
  return elapsedMs > 0 ? (made * 1000) / elapsedMs : null;
}

function showFigures(cards, history, figures) {
  if (figures === null) {
    for (const { show } of [cards.rate, cards.waiting, cards.failed]) {
      show('–', 'Metrics are disabled');
    }
    return;
  }
  const rate = attemptRate(history, figures);
  const shown = rate === null ? '–' : rate.toFixed(rate > 0 && rate < 10 ? 1 : 0);
  const total = `${count(totalAttempts(figures))} in total`;
  cards.rate.show([shown, el('small', null, ' /s')], total);
  const { pending, in_progress: busy, retrying, failed } = figures.webhooks;
  cards.waiting.show(
    count(pending + busy + retrying),
    `${count(pending)} pending, ${count(busy)} in progress, ${count(retrying)} retrying`,
  );
  const note = failed ? 'Listed under Dead letters' : 'No dead letters';
  cards.failed.show(count(failed), note, failed ? 'is-bad' : '');
}

function showHealth(cards, health, paused) {
  // Without a key the API returns the status alone.
  if (!health?.circuits) return;
  const { circuits } = health;
  const open = circuits.filter(({ state }) => state === 'open').length;
  const others = circuits.length > 1 ? ` and ${circuits.length - 1} more` : '';
  const probing = open ? '' : `, ${circuits.length} half-open`;
  const pauses = paused > 0 ? `, ${plural(paused, 'target')} paused` : '';
  const note = circuits.length
    ? `${circuits[0].destination}${others}${probing}`
    : 'All circuits are closed';
  cards.circuits.show(count(open), note + pauses, open ? 'is-bad' : '');
}

function showHour(cards, chart, { last_hour: hour, oldest_waiting: oldest, now }) {
  learnServerTime(now);
  const accepted = hour.minutes.reduce((sum, minute) => sum + sumOf(minute), 0);
  const since = `since ${timeOfDay(hour.since, false)} (newest 1,000)`;
  cards.accepted.show(
    `${count(accepted)}${hour.complete ? '' : '+'}`,
    hour.complete ? 'in the last hour' : since,
  );
  if (oldest.since === null) {
    cards.oldest.show('–', oldest.complete ? 'None waiting' : 'None among the webhooks read');
  } else {
    const atLeast = oldest.complete ? null : 'at least ';
    const age = relative('age', oldest.since);
    cards.oldest.show([atLeast, age], webhookLink(oldest.webhook_id, 'View webhook'));
  }
  chart.hour = hour;
  chart.draw();
}

function chartPanel() {
  const picture = el('div', { class: 'picture' });
  const note = el('p', { class: 'hint', hidden: true });
  const legend = LAYERS.map((layer) => el('span', { class: `key is-${layer}` }, layer));
  const head = el(
    'div',
    { class: 'head' },
    el('h2', null, 'Accepted in the last hour, by current status'),
    el('p', { class: 'legend', 'aria-hidden': 'true' }, legend),
  );
  const panel = { box: section('Last hour', '', head, picture, note), hour: null };
  panel.draw = () => {
    if (panel.hour === null || picture.clientWidth === 0) return;
    fill(picture, hourChart(panel.hour, picture.clientWidth));
    note.hidden = panel.hour.complete;
    const since = timeOfDay(panel.hour.since);
    note.textContent = `Newest 1,000 webhooks only. Those accepted before ${since} are not shown.`;
  };
  new ResizeObserver(panel.draw).observe(picture);
  return panel;
}

/** The badges of a target. */
function targetBadges({ circuit, retries_only: isForRetries, paused_until: until, ...target }) {
  const { open_until: openUntil, paused_by: code, learned_rate: rate, waiting } = target;
  const quiet = (...shown) => el('span', { class: 'faint' }, shown);
  const name = isForRetries ? `${withSpaces(circuit)} for retries` : withSpaces(circuit);
  return [
    circuit !== 'closed' && el('span', { class: 'badge is-failed' }, name),
    circuit === 'open' && quiet(relative('left', openUntil)),
    until && el('span', { class: 'badge is-retrying' }, `paused by ${code}`),
    until && quiet(relative('left', until)),
    !until && rate !== null && el('span', { class: 'badge is-retrying' }, perSecond(rate)),
    waiting > 0 && quiet(`${count(waiting)} waiting`),
  ];
}

/** A target of a destination: which one it is, and what restricts it. */
function targetEntry(target) {
  const [, hash] = target.target.split('#');
  const title = hash
    ? `One URL of the destination. ${hash} is the hash of its path.`
    : 'All URLs of the destination';
  const name = el('span', { class: 'tag', title }, hash ? `URL ${hash}` : 'All URLs');
  return el('li', { class: 'line' }, name, targetBadges(target));
}

/** Open circuits first, then half-open ones, pauses, and learned rates. */
const severity = ({ circuit, paused_until: until }) =>
  ['open', 'half_open'].indexOf(circuit) + 1 || (until ? 3 : 4);

/** What restricts a destination, or null. */
function restrictions({ targets, rate_limit: limit }) {
  const worst = targets.toSorted((a, b) => severity(a) - severity(b));
  const more = worst.length - MAX_TARGETS_SHOWN;
  const entries = worst.slice(0, MAX_TARGETS_SHOWN).map(targetEntry);
  if (more > 0) entries.push(el('li', { class: 'tag' }, `and ${count(more)} more`));
  if (limit) entries.push(el('li', { class: 'tag' }, `Limit ${limit}`));
  return entries.length ? el('ul', { class: 'targets' }, entries) : null;
}

function successCell({ success_share: share }) {
  if (share === null) return el('td', { class: 'number' }, '–');
  const meter = el('meter', { min: 0, max: 1, value: share, 'aria-label': 'Success rate' });
  return el('td', { class: 'number' }, meter, ' ', el('span', { class: 'share' }, percent(share)));
}

function destinationRow(item) {
  const { destination, attempts, failed, waiting, last_error: error } = item;
  const last = error && [
    outcomeChip(error.status_code, error.kind),
    ' ',
    relative('ago', error.at),
  ];
  return el(
    'tr',
    null,
    // Screen readers repeat the row's header with each cell, so it has a short form.
    el(
      'th',
      { scope: 'row', class: 'what', abbr: destination },
      el('div', { class: 'url' }, destination),
      restrictions(item),
    ),
    successCell(item),
    el('td', { class: 'number wide' }, count(attempts)),
    el('td', { class: 'number wide' }, count(failed)),
    el('td', { class: 'number' }, count(waiting)),
    el('td', { class: 'wide' }, last),
  );
}

function showDestinations(cards, panel, items) {
  const sum = (name) => items.reduce((total, item) => total + item[name], 0);
  const [attempts, failed] = [sum('attempts'), sum('failed')];
  const scope = items.length >= MAX_DESTINATIONS ? ` to the worst ${MAX_DESTINATIONS}` : '';
  if (attempts === 0) cards.success.show('–', 'No attempts in this or the previous hour');
  else {
    const note = `${plural(attempts, 'attempt')}${scope} in this and the previous hour`;
    cards.success.show(percent(1 - failed / attempts), note, failed ? '' : 'is-good');
  }
  panel.none.hidden = items.length > 0;
  panel.table.box.hidden = items.length === 0;
  sync(panel.table.body, items, (item) => item.destination, JSON.stringify, destinationRow);
}

function destinationsPanel() {
  const columns = [
    ['Destination', 'what'],
    ['Success', 'number'],
    ['Attempts', 'number wide'],
    ['Failed', 'number wide'],
    ['Waiting', 'number'],
    ['Last error', 'wide'],
  ];
  const rows = table('Destinations', columns);
  scrollable(rows.box, 'Destinations table').hidden = true;
  const none = empty('No attempts in this or the previous hour.');
  const head = el(
    'div',
    { class: 'head' },
    el('h2', null, 'Destinations'),
    el('p', { class: 'hint' }, 'Worst first, in this and the previous hour'),
  );
  return { box: section('Destinations', '', head, none, rows.box), table: rows, none };
}

function overviewView() {
  const cards = {
    accepted: card('Accepted', '#/webhooks'),
    rate: card('Attempts'),
    success: card('Success rate'),
    waiting: card('Waiting'),
    oldest: card('Oldest waiting'),
    circuits: card('Open circuits'),
    failed: card('Failed', '#/dead-letters'),
  };
  const chart = chartPanel();
  const destinations = destinationsPanel();
  const history = [];
  let [loadedAt, loadedState] = [0, -1];
  const refresh = async () => {
    const figures = await loadFigures();
    showFigures(cards, history, figures);
    showHealth(cards, await get('health', { alsoOk: [503] }), figures?.paused);
    const elapsedMs = Date.now() - loadedAt;
    const { at, ...counts } = figures ?? { at: Date.now() };
    const state = figures === null ? at : JSON.stringify(counts);
    if (elapsedMs < HOUR_MS || (state === loadedState && elapsedMs < MAX_HOUR_MS)) return;
    const [hour, { items }] = await Promise.all([get('overview'), get('destinations')]);
    showHour(cards, chart, hour);
    showDestinations(cards, destinations, items);
    [loadedAt, loadedState] = [Date.now(), state];
  };
  const boxes = Object.values(cards).map(({ box }) => box);
  const root = [
    el('h1', { tabindex: -1 }, 'Overview'),
    el('div', { class: 'cards' }, boxes),
    chart.box,
    destinations.box,
  ];
  return { title: 'Overview', root, refresh, everyMs: FIGURES_MS };
}
