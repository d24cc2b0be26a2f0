// Applications: the list, and one application with its endpoints and messages.

const APPLICATIONS_MS = 6000;

/** The deliveries that the view of an application loads. */
const DELIVERIES = 100;

const applicationLink = (id) => el('a', { href: `#/application/${encodeURIComponent(id)}` }, id);

function applicationRow({ application_id: id, name, created_at: created }) {
  return el(
    'tr',
    null,
    el('td', { class: 'what' }, el('div', { class: 'line' }, applicationLink(id))),
    el('td', null, name ?? ''),
    el('td', { class: 'when' }, relative('ago', created)),
  );
}

function applicationsView(filters) {
  const columns = [
    ['Application', 'what'],
    ['Name', ''],
    ['Created', 'when'],
  ];
  const rows = table('Applications', columns);
  const none = el('div', { hidden: true });
  const pages = pager('applications', filters);
  const refresh = async () => {
    const params = { ...filters, page_size: PAGE_SIZE };
    const { items, next } = await loadPage('applications', params);
    sync(rows.body, items, (item) => item.application_id, JSON.stringify, applicationRow);
    rows.box.hidden = items.length === 0;
    none.hidden = items.length > 0;
    fill(none, empty('No applications. Create one with PUT /applications/ID.'));
    pages.show(next);
  };
  const root = [
    el('h1', { tabindex: -1 }, 'Applications'),
    section('Applications', 'flush', rows.box, none),
    pages,
  ];
  return { title: 'Applications', root, refresh, everyMs: APPLICATIONS_MS };
}

/** Disables or enables an endpoint. */
async function switchEndpoint(path, { endpoint_id: id, enabled }) {
  if (enabled) {
    const text =
      'Messages that are published from now on are not sent to it. Its unfinished deliveries ' +
      'fail and become dead letters.';
    if (!(await confirmed('Disable this endpoint?', text, 'Disable', true))) return null;
  }
  await post(`${path}/endpoints/${encodeURIComponent(id)}/${enabled ? 'disable' : 'enable'}`, '{}');
  return enabled ? 'Endpoint disabled' : 'Endpoint enabled';
}

function endpointRow(path, endpoint, refresh) {
  const { endpoint_id: id, url, enabled, event_types: types } = endpoint;
  const change = action(enabled ? 'Disable' : 'Enable', 'quiet small', async () => {
    const text = await switchEndpoint(path, endpoint);
    await refresh();
    return text;
  });
  return el(
    'tr',
    null,
    el('td', { class: 'state' }, badge(enabled ? 'enabled' : 'disabled')),
    el(
      'td',
      { class: 'what' },
      el('div', { class: 'line' }, el('span', { class: 'mono' }, id)),
      el('div', { class: 'url' }, url),
    ),
    el('td', { class: 'wide' }, types ? types.join(', ') : 'all event types'),
    el('td', { class: 'when' }, change),
  );
}

/** Groups deliveries by their message, in the order of the list. */
function byMessage(deliveries) {
  const messages = new Map();
  for (const delivery of deliveries) {
    const { message_id: id } = delivery;
    if (!messages.has(id)) messages.set(id, []);
    messages.get(id).push(delivery);
  }
  return [...messages].map(([id, parts]) => ({ id, parts }));
}

/** The status of a delivery, which links to it. */
const deliveryChip = ({ delivery_id: id, endpoint_id: endpoint, status }) =>
  el(
    'a',
    { class: `badge is-${status}`, href: `#/webhook/${encodeURIComponent(id)}`, title: endpoint },
    withSpaces(status),
  );

function messageRow({ id, parts }) {
  const [{ reference_id: reference, event_type: event, created_at: created }] = parts;
  return el(
    'tr',
    null,
    el(
      'td',
      { class: 'what' },
      el('div', { class: 'line' }, reference, el('span', { class: 'tag' }, event)),
      el('div', { class: 'url' }, id),
    ),
    el('td', null, el('div', { class: 'line' }, parts.map(deliveryChip))),
    el('td', { class: 'when' }, relative('ago', created)),
  );
}

function applicationView({ id }) {
  const path = `applications/${encodeURIComponent(id)}`;
  const details = section('Details', '');
  const endpoints = table('Endpoints', [
    ['State', 'state'],
    ['Endpoint', 'what'],
    ['Event types', 'wide'],
    ['Action', 'when'],
  ]);
  const messages = table('Messages, newest first', [
    ['Message', 'what'],
    ['Deliveries', ''],
    ['Accepted', 'when'],
  ]);
  const noEndpoints = empty(`No endpoints. Create one with POST /${path}/endpoints.`);
  const noMessages = empty(`No deliveries. Publish a message with POST /${path}/messages.`);
  const root = [
    el('h1', { tabindex: -1 }, id),
    details,
    el('h2', null, 'Endpoints'),
    section('Endpoints', 'flush', endpoints.box, noEndpoints),
    el('h2', null, 'Messages'),
    section('Messages', 'flush', messages.box, noMessages),
  ];
  const view = { title: id, root, everyMs: LIST_MS };
  let requests = 0;
  view.refresh = async () => {
    requests += 1;
    const request = requests;
    const [application, { items }, deliveries] = await Promise.all([
      get(path),
      get(`${path}/endpoints`),
      get(`${path}/deliveries?page_size=${DELIVERIES}`),
    ]);
    if (request !== requests) return;
    const { name, created_at: created } = application;
    const facts = [name && fact('Name', name), timed('Created', moment(created), '')];
    fill(details, el('dl', { class: 'facts' }, facts));
    const endpoint = (item) => endpointRow(path, item, view.refresh);
    sync(endpoints.body, items, (item) => item.endpoint_id, JSON.stringify, endpoint);
    const grouped = byMessage(deliveries.items);
    sync(messages.body, grouped, (message) => message.id, JSON.stringify, messageRow);
    for (const [box, none, isEmpty] of [
      [endpoints.box, noEndpoints, items.length === 0],
      [messages.box, noMessages, grouped.length === 0],
    ]) {
      box.hidden = isEmpty;
      none.hidden = !isEmpty;
    }
  };
  return view;
}
