// Pretty-prints JSON as text. `JSON.parse` would round large numbers and drop duplicate keys.

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;

/** Longer texts are shown without colours: one element per token would be too slow. */
const MAX_COLOURED_TOKENS = 5000;

/** The text of a top-level member's value. Returns null if there is no such member. */
function memberText(text, name) {
  let depth = 0;
  let key = null;
  let start = -1;
  for (const match of text.matchAll(TOKEN)) {
    const token = match[0];
    if (token === '}' || token === ']') depth -= 1;
    if (depth === 1 && start >= 0 && token === ',') return text.slice(start, match.index).trim();
    if (depth === 0 && start >= 0) return text.slice(start, match.index).trim();
    if (depth === 1 && start < 0) {
      if (token === ':' && key === name) start = match.index + 1;
      else if (token === ',') key = null;
      else if (token[0] === '"' && key === null) key = JSON.parse(token);
    }
    if (token === '{' || token === '[') depth += 1;
  }
  return null;
}

/** The tokens, each with the white space in front of it. */
function layOut(text) {
  const tokens = text.match(TOKEN) ?? [];
  let depth = 0;
  return tokens.map((token, index) => {
    const [before, after] = [tokens[index - 1], tokens[index + 1]];
    const opens = before === '{' || before === '[';
    const closes = token === '}' || token === ']';
    if (closes) depth -= 1;
    let space = '';
    if (before === ':') space = ' ';
    else if (before === ',' || (opens && !closes) || (closes && !opens))
      space = `\n${'  '.repeat(depth)}`;
    if (token === '{' || token === '[') depth += 1;
    const name = token[0] === '"' && after === ':';
    return { space, token, kind: name ? 'name' : kindOf(token) };
  });
}

function kindOf(token) {
  if (token[0] === '"') return 'string';
  return /^[{}[\],:]$/.test(token) ? 'mark' : 'literal';
}

/** An element with the indented text. */
function prettyJson(text) {
  const parts = layOut(text);
  const box = el('pre', { class: 'json', tabindex: 0, role: 'region', 'aria-label': 'JSON' });
  if (parts.length > MAX_COLOURED_TOKENS)
    return add(box, parts.map((part) => part.space + part.token).join(''));
  const spans = parts.map(({ space, token, kind }) => [
    space,
    kind === 'mark' ? token : el('span', { class: `j-${kind}` }, token),
  ]);
  return add(box, spans);
}
