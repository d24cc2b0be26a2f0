// Elements. Text becomes text nodes, never markup: nothing in this program parses HTML, and the page's policy forbids it to.

const SVG = 'http://www.w3.org/2000/svg';

/** A place of the document by its id. */
const $ = (id) => document.getElementById(id);

/** Adds what is there of `children`: nodes, texts, lists of them. */
function add(parent, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) parent.append(child);
  }
  return parent;
}

function attributes(element, given) {
  for (const [name, value] of Object.entries(given ?? {})) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  return element;
}

/** An element, such as `el('p', { class: 'x' }, 'text', el('b', null, 'more'))`. Attributes named on… are listeners. */
const el = (name, given, ...children) => add(attributes(document.createElement(name), given), children);

/** The same for what is drawn. */
const svg = (name, given, ...children) => add(attributes(document.createElementNS(SVG, name), given), children);

/** Puts these in place of what is in it. */
const fill = (parent, ...children) => {
  parent.replaceChildren();
  return add(parent, children);
};

/**
 * Shows `items` as the children of `parent`, in their order. A child is made anew only if its `key` or its `mark` changed, so that what
 * has the focus or is selected stays so while a list is live.
 */
function sync(parent, items, key, mark, make) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const after = items.map((item) => {
    const [name, state] = [key(item), mark(item)];
    const old = before.get(name);
    if (old && old.dataset.mark === state) return old;
    const made = make(item);
    made.dataset.key = name;
    made.dataset.mark = state;
    return made;
  });
  if (after.length === parent.children.length && after.every((child, index) => child === parent.children[index])) return;
  const focus = document.activeElement?.closest('[data-key]');
  const at = focus?.parentElement === parent && focus.contains(document.activeElement) ? focus.dataset.key : null;
  const kept = new Set(after);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  after.forEach((child, index) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  if (at !== null && !parent.contains(document.activeElement)) {
    after.find((child) => child.dataset.key === at)?.querySelector('a, button, input')?.focus({ preventScroll: true });
  }
}
