// DOM helpers. Text always becomes text nodes. Nothing in this script parses HTML, and the page's
// content security policy forbids it.

const SVG = 'http://www.w3.org/2000/svg';

/** The element with this ID. */
const $ = (id) => document.getElementById(id);

/** Appends nodes, texts, and nested lists of them. Skips null, undefined, and false. */
function add(parent, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) parent.append(child);
  }
  return parent;
}

function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value);
    }
  }
  return element;
}

/**
 * Creates an element, for example `el('p', { class: 'x' }, 'text', el('b', null, 'more'))`.
 * Attributes named `on…` become event listeners.
 */
const el = (name, attributes, ...children) =>
  add(setAttributes(document.createElement(name), attributes), children);

/** Like `el`, for SVG elements. */
const svg = (name, attributes, ...children) =>
  add(setAttributes(document.createElementNS(SVG, name), attributes), children);

/** Replaces all children of `parent`. */
const fill = (parent, ...children) => {
  parent.replaceChildren();
  return add(parent, children);
};

/** Creates the children for `items`. Reuses a child if its key and its state are unchanged. */
function childrenFor(parent, items, keyOf, stateOf, create) {
  const existing = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  return items.map((item) => {
    const [key, state] = [keyOf(item), stateOf(item)];
    const child = existing.get(key);
    if (child && child.dataset.state === state) return child;
    const created = create(item);
    created.dataset.key = key;
    created.dataset.state = state;
    return created;
  });
}

/**
 * Shows `items` as the children of `parent`, in order. An unchanged item keeps its element, so
 * focus and selection survive a refresh.
 */
function sync(parent, items, keyOf, stateOf, create) {
  const children = childrenFor(parent, items, keyOf, stateOf, create);
  const isUnchanged =
    children.length === parent.children.length &&
    children.every((child, index) => child === parent.children[index]);
  if (isUnchanged) return;
  const focused = document.activeElement?.closest('[data-key]');
  const hasFocus = focused?.parentElement === parent && focused.contains(document.activeElement);
  const focusedKey = hasFocus ? focused.dataset.key : null;
  const kept = new Set(children);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  children.forEach((child, index) => {
    if (parent.children[index] !== child) {
      parent.insertBefore(child, parent.children[index] ?? null);
    }
  });
  if (focusedKey !== null && !parent.contains(document.activeElement)) {
    const child = children.find((candidate) => candidate.dataset.key === focusedKey);
    child?.querySelector('a, button, input')?.focus({ preventScroll: true });
  }
}
