// Selects the view, and keeps it and the health status current.

const HEALTH_MS = 5000;
const TICK_MS = 200;

/** The longest wait before a view retries after an error. */
const MAX_BACKOFF_MS = 30_000;

let isLive = true;

/** The number of the current view. Responses for earlier views are dropped. */
let currentView = 0;
let timer = null;

/** Refreshes the current view immediately. */
let refreshNow = () => {};

function notFoundView() {
  const root = [el('h1', { tabindex: -1 }, 'Page not found')];
  return { title: 'Page not found', root, refresh: async () => {}, everyMs: 60_000 };
}

/** The navigation entry and the view for the current address. */
function route() {
  const [path, search = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const params = Object.fromEntries(new URLSearchParams(search));
  const { reference_id, status, cursor } = params;
  if (path === '') return ['', overviewView()];
  if (path === 'webhooks') return [path, webhooksView({ reference_id, status, cursor })];
  if (path === 'dead-letters') return [path, deadLettersView({ reference_id, cursor })];
  if (path === 'applications') return [path, applicationsView({ cursor })];
  if (path === 'send') return [path, sendView()];
  if (path.startsWith('application/')) {
    const id = decodeURIComponent(path.slice('application/'.length));
    return ['applications', applicationView({ id })];
  }
  if (path.startsWith('webhook/')) {
    return ['webhooks', webhookView({ id: decodeURIComponent(path.slice('webhook/'.length)) })];
  }
  return [null, notFoundView()];
}

/** Refreshes `view` for as long as it is the current view. */
function poll(view) {
  const number = currentView;
  let [failures, isLoaded] = [0, false];
  const schedule = (ms) => {
    clearTimeout(timer);
    timer = setTimeout(refresh, ms);
  };
  const refresh = async () => {
    // A paused or hidden page still loads once.
    if (isLoaded && (!isLive || document.hidden)) return schedule(HEALTH_MS);
    try {
      await view.refresh();
      if (number !== currentView) return null;
      [failures, isLoaded] = [0, true];
      showError(null);
    } catch (error) {
      if (number !== currentView) return null;
      if (!(error instanceof ApiError)) console.error(error);
      showError(error.status === 0 ? `${error.message} Retrying…` : error.message);
      failures += 1;
      // Retrying does not help if the webhook does not exist or the request is invalid.
      if (error.status >= 400 && error.status < 500 && error.status !== 429) return null;
    }
    return schedule(Math.min(view.everyMs * 2 ** failures, MAX_BACKOFF_MS));
  };
  refreshNow = () => schedule(0);
  refresh();
}

function show(isFirst) {
  const [current, view] = route();
  currentView += 1;
  clearTimeout(timer);
  showError(null);
  document.title = `${view.title} · Posthaste`;
  fill($('main'), view.root);
  for (const link of document.querySelectorAll('header nav a')) {
    const isCurrent = link.getAttribute('href') === `#/${current}`;
    if (isCurrent) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  // The browser moves neither focus nor scroll position, since it loaded no document.
  if (!isFirst) {
    window.scrollTo(0, 0);
    $('main').querySelector('h1').focus({ preventScroll: true });
  }
  poll(view);
}

async function pollHealth() {
  if (isLive && !document.hidden) {
    let status = 'unreachable';
    try {
      status = (await get('health', { alsoOk: [503] })).status ?? status;
    } catch {
      // The status shows it.
    }
    $('health').dataset.health = status;
    $('health-status').textContent = status;
  }
  setTimeout(pollHealth, HEALTH_MS);
}

function setLive(live) {
  isLive = live;
  const button = $('live');
  button.dataset.live = String(live);
  button.textContent = live ? 'Live' : 'Paused';
  button.title = live ? 'Pause automatic refresh' : 'Resume automatic refresh';
  if (live) refreshNow();
}

function start() {
  $('forget').hidden = !sessionStorage.getItem(KEY);
  $('forget').addEventListener('click', () => {
    sessionStorage.removeItem(KEY);
    location.reload();
  });
  $('live').addEventListener('click', () => setLive(!isLive));
  // The page shows nothing without a key, so the prompt cannot be closed.
  $('key').addEventListener('cancel', (event) => event.preventDefault());
  // The address holds the view, so the link must not change it.
  document.querySelector('.skip').addEventListener('click', (event) => {
    event.preventDefault();
    $('main').focus();
  });
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden && isLive) refreshNow();
  });
  window.addEventListener('hashchange', () => show(false));
  setInterval(updateRelativeTimes, TICK_MS);
  show(true);
  pollHealth();
}

start();
