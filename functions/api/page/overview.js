// How it goes. Figures that are cheap to ask for are asked for often, the others when something has changed.

const FIGURES_MS = 3000;

/** At least so long between two looks at destinations and at the hour; and at most, while something goes on. */
const HOUR_MS = 10_000;
const HOUR_AT_LAST_MS = 60_000;

/** A rate is told over at least so long, so that it does not jump. */
const RATE_OVER_MS = 12_000;

/** The samples of Prometheus text: a number for each name with its labels. */
function samples(text) {
  const found = new Map();
  for (const line of text.split('\n')) {
    const at = line.lastIndexOf(' ');
    if (line[0] !== '#' && at > 0) found.set(line.slice(0, at), Number(line.slice(at + 1)));
  }
  return found;
}

/** From `/metrics`: attempts so far by what they led to, and webhooks by status. Null if there are no metrics. */
async function figures() {
  let text;
  try {
    text = await callText('GET', 'metrics');
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null;
    throw error;
  }
  const found = samples(text);
  const at = (name) => found.get(name) ?? 0;
  const attempts = Object.fromEntries(
    ['delivered', 'retrying', 'failed'].map((name) => [name, at(`webhook_delivery_total{status="${name}",worker_id="deliver"}`)]),
  );
  const webhooks = Object.fromEntries(STATUSES.map((name) => [name, at(`redis_webhook_keys{status="${name}"}`)]));
  return { at: Date.now(), attempts, webhooks };
}

const allAttempts = ({ attempts }) => attempts.delivered + attempts.retrying + attempts.failed;

function card(label, href) {
  const value = el('p', { class: 'value' }, '–');
  const note = el('p', { class: 'note' }, '\u00a0');
  const name = href ? el('a', { href }, label) : label;
  const box = el('div', { class: 'card' }, el('h2', null, name), value, note);
  const show = (shown, told, kind = '') => {
    box.className = `card ${kind}`;
    fill(value, shown);
    fill(note, told ?? '\u00a0');
  };
  return { box, show };
}

function showFigures(cards, history, now) {
  if (now === null) {
    for (const name of ['rate', 'waiting', 'failed']) cards[name].show('–', 'metrics are switched off');
    return;
  }
  // A counter that went back is another store's.
  if (history.length && allAttempts(now) < allAttempts(history.at(-1))) history.length = 0;
  history.push(now);
  while (history.length > 2 && now.at - history[1].at >= RATE_OVER_MS) history.shift();
  const over = now.at - history[0].at;
  const made = allAttempts(now) - allAttempts(history[0]);
  const rate = over > 0 ? (made * 1000) / over : null;
  const shown = rate === null ? '–' : rate.toFixed(rate > 0 && rate < 10 ? 1 : 0);
  cards.rate.show([shown, el('small', null, ' /s')], `${count(allAttempts(now))} attempts so far`);
  const { pending, in_progress: busy, retrying, failed } = now.webhooks;
  cards.waiting.show(count(pending + busy + retrying), `${count(pending)} pending, ${count(busy)} in progress, ${count(retrying)} retrying`);
  cards.failed.show(count(failed), failed ? 'see the dead letters' : 'no dead letters', failed ? 'is-bad' : '');
}

function showHealth(cards, health) {
  // Without a key there is only the word.
  if (!health?.circuits) return;
  const open = health.circuits.filter(({ state }) => state === 'open').length;
  const probing = health.circuits.length - open;
  const first = health.circuits[0]?.destination;
  const more = health.circuits.length > 1 ? ` and ${health.circuits.length - 1} more` : '';
  cards.circuits.show(count(open), first ? `${first}${more}${open ? '' : `, ${probing} probing`}` : 'every destination is served', open ? 'is-bad' : '');
}

function showHour(cards, place, { last_hour: hour, oldest_waiting: oldest, now }) {
  learnTime(now);
  const accepted = hour.minutes.reduce((sum, minute) => sum + sumOf(minute), 0);
  cards.accepted.show(`${count(accepted)}${hour.complete ? '' : '+'}`, hour.complete ? 'in the last hour' : `since ${timeOfDay(hour.since, false)}, the newest 1,000`);
  const atLeast = oldest.complete ? null : 'at least ';
  if (oldest.since === null) cards.oldest.show('–', oldest.complete ? 'nothing waits' : 'nothing that was looked at waits');
  else cards.oldest.show([atLeast, running('age', oldest.since)], webhookLink(oldest.webhook_id, 'which one'));
  place.hour = hour;
  place.draw();
}

function chartPlace() {
  const picture = el('div', { class: 'picture' });
  const told = el('p', { class: 'hint', hidden: true });
  const legend = LAYERS.map((layer) => el('span', { class: `key is-${layer}` }, layer));
  const head = el('div', { class: 'head' }, el('h2', null, 'Accepted in the last hour, by what became of them'), el('p', { class: 'legend', 'aria-hidden': 'true' }, legend));
  const box = el('section', { class: 'panel', 'aria-label': 'The last hour' }, head, picture, told);
  const place = { box, hour: null };
  place.draw = () => {
    if (place.hour === null || picture.clientWidth === 0) return;
    fill(picture, hourChart(place.hour, picture.clientWidth));
    told.hidden = place.hour.complete;
    told.textContent = `Of the newest 1,000 only: what was accepted before ${timeOfDay(place.hour.since)} is not shown.`;
  };
  new ResizeObserver(place.draw).observe(picture);
  return place;
}

function destinationRow(item) {
  const { destination, circuit, open_until: until, success_share: share, attempts, failed, waiting, last_error: error } = item;
  const state = circuit === 'closed' ? el('span', { class: 'faint' }, 'closed') : el('span', { class: 'badge is-failed' }, inWords(circuit));
  const meter = share === null ? '–' : [el('meter', { min: 0, max: 1, value: share, 'aria-label': 'Success' }), ' ', el('span', { class: 'share' }, percent(share))];
  return el(
    'tr',
    null,
    el('th', { scope: 'row', class: 'what' }, el('div', { class: 'url' }, destination)),
    el('td', null, state, until && circuit === 'open' && [' ', el('span', { class: 'faint' }, running('until', until))]),
    el('td', { class: 'number' }, meter),
    el('td', { class: 'number wide' }, count(attempts)),
    el('td', { class: 'number wide' }, count(failed)),
    el('td', { class: 'number' }, count(waiting)),
    el('td', { class: 'wide' }, error && [outcomeChip(error.status_code, error.kind), ' ', running('ago', error.at)]),
  );
}

function showDestinations(cards, place, items) {
  const sum = (name) => items.reduce((total, item) => total + item[name], 0);
  const [attempts, failed] = [sum('attempts'), sum('failed')];
  // The API names the worst hundred.
  const whose = items.length >= 100 ? ' at the worst 100 destinations' : '';
  if (attempts === 0) cards.success.show('–', 'no attempts this hour or the one before');
  else cards.success.show(percent(1 - failed / attempts), `of ${plural(attempts, 'attempt')}${whose}, this hour and the one before`, failed ? '' : 'is-good');
  place.none.hidden = items.length > 0;
  place.table.box.hidden = items.length === 0;
  sync(place.table.body, items, (item) => item.destination, JSON.stringify, destinationRow);
}

function overviewView() {
  const cards = {
    accepted: card('Accepted', '#/webhooks'),
    rate: card('Attempts'),
    success: card('Success'),
    waiting: card('Waiting'),
    oldest: card('Oldest waiting'),
    circuits: card('Open circuits'),
    failed: card('Failed', '#/dead-letters'),
  };
  const chart = chartPlace();
  const columns = [['Destination', 'what'], ['Circuit'], ['Success', 'number'], ['Attempts', 'number wide'], ['Failed', 'number wide'], ['Waiting', 'number'], ['Last error', 'wide']];
  const worst = { table: table('Worst destinations', columns), none: empty('No attempts this hour or the one before.') };
  scrollable(worst.table.box, 'Worst destinations').hidden = true;
  const history = [];
  let [lookedAt, lookedWith] = [0, -1];
  const refresh = async () => {
    const now = await figures();
    showFigures(cards, history, now);
    showHealth(cards, await get('health', { alsoGood: [503] }));
    const since = Date.now() - lookedAt;
    const mark = now === null ? Date.now() : JSON.stringify([now.attempts, now.webhooks]);
    if (since < HOUR_MS || (mark === lookedWith && since < HOUR_AT_LAST_MS)) return;
    const [hour, destinations] = await Promise.all([get('overview'), get('destinations')]);
    showHour(cards, chart, hour);
    showDestinations(cards, worst, destinations.items);
    [lookedAt, lookedWith] = [Date.now(), mark];
  };
  const list = el('section', { class: 'panel', 'aria-label': 'Destinations' }, el('div', { class: 'head' }, el('h2', null, 'Worst destinations'), el('p', { class: 'hint' }, 'this hour and the one before')), worst.none, worst.table.box);
  const boxes = el('div', { class: 'cards' }, Object.values(cards).map(({ box }) => box));
  return { title: 'Overview', root: [el('h1', { tabindex: -1 }, 'Overview'), boxes, chart.box, list], refresh, everyMs: FIGURES_MS };
}
