// Which view is shown, and what keeps it right.

const HEALTH_MS = 5000;
const TICK_MS = 200;

/** A view asks again after a failure at most this late. */
const MAX_BACK_OFF_MS = 30_000;

let isLive = true;

/** Counts the views that were shown; what an earlier one still waits for is dropped. */
let shown = 0;
let timer = null;

/** Makes the view that is shown ask at once. */
let lookNow = () => {};

function route() {
  const [path, search = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const given = Object.fromEntries(new URLSearchParams(search));
  if (path === '') return ['', overviewView()];
  if (path === 'webhooks') return [path, webhooksView({ reference_id: given.reference_id, status: given.status, cursor: given.cursor })];
  if (path === 'dead-letters') return [path, deadLettersView({ reference_id: given.reference_id, cursor: given.cursor })];
  if (path === 'send') return [path, sendView()];
  if (path.startsWith('webhook/')) return ['webhooks', webhookView({ id: decodeURIComponent(path.slice('webhook/'.length)) })];
  return [null, { title: 'Not found', root: [el('h1', { tabindex: -1 }, 'There is no such view')], refresh: async () => {}, everyMs: 60_000 }];
}

/** Keeps `view` right for as long as it is shown. */
function keep(view) {
  const mine = shown;
  let [failures, wasSeen] = [0, false];
  const again = (ms) => {
    clearTimeout(timer);
    timer = setTimeout(look, ms);
  };
  const look = async () => {
    // What was shown at least once can stand still.
    if (wasSeen && (!isLive || document.hidden)) return again(HEALTH_MS);
    try {
      await view.refresh();
      if (mine !== shown) return null;
      [failures, wasSeen] = [0, true];
      trouble(null);
    } catch (error) {
      if (mine !== shown) return null;
      if (!(error instanceof Refused)) console.error(error);
      trouble(error.status === 0 ? `${error.message} Trying again.` : error.message);
      failures += 1;
      // What is gone, or wrongly asked for, does not come back.
      if (error.status >= 400 && error.status < 500 && error.status !== 429) return null;
    }
    return again(Math.min(view.everyMs * 2 ** failures, MAX_BACK_OFF_MS));
  };
  lookNow = () => again(0);
  look();
}

function show(isFirst) {
  const [section, view] = route();
  shown += 1;
  clearTimeout(timer);
  trouble(null);
  document.title = `${view.title} · Posthaste`;
  fill($('main'), view.root);
  for (const link of document.querySelectorAll('nav[aria-label="Views"] a')) {
    const isCurrent = link.getAttribute('href') === `#/${section}`;
    if (isCurrent) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  // Where the reader is has changed, though no document was loaded.
  if (!isFirst) {
    window.scrollTo(0, 0);
    $('main').querySelector('h1').focus({ preventScroll: true });
  }
  keep(view);
}

async function beat() {
  if (isLive && !document.hidden) {
    let word = 'no answer';
    try {
      word = (await get('health', { alsoGood: [503] })).status ?? word;
    } catch {
      // It is shown as such.
    }
    $('health').dataset.health = word;
    $('health-word').textContent = word;
  }
  setTimeout(beat, HEALTH_MS);
}

function setLive(live) {
  isLive = live;
  const button = $('live');
  button.dataset.live = String(live);
  button.textContent = live ? 'Live' : 'Paused';
  button.title = live ? 'Pause this page' : 'Let this page go on';
  if (live) lookNow();
}

function start() {
  $('forget').hidden = !sessionStorage.getItem(KEY);
  $('forget').addEventListener('click', () => {
    sessionStorage.removeItem(KEY);
    location.reload();
  });
  $('live').addEventListener('click', () => setLive(!isLive));
  // There is nothing to see without a key.
  $('key').addEventListener('cancel', (event) => event.preventDefault());
  // The address is where the view is; the link must not change that.
  document.querySelector('.skip').addEventListener('click', (event) => {
    event.preventDefault();
    $('main').focus();
  });
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden && isLive) lookNow();
  });
  window.addEventListener('hashchange', () => show(false));
  setInterval(tick, TICK_MS);
  show(true);
  beat();
}

start();
