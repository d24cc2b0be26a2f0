// JSON as it stands in the text: `JSON.parse` would round large numbers and drop members that are there twice.

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;

/** More tokens than this are shown without colours: an element for each would take the page's breath. */
const MAX_COLOURED = 5000;

/** Where the value of a member of the outermost object begins and ends; its text, or null. */
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

/** Its tokens, each with the white space that goes before it. */
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
    else if (before === ',' || (opens && !closes) || (closes && !opens)) space = `\n${'  '.repeat(depth)}`;
    if (token === '{' || token === '[') depth += 1;
    const name = token[0] === '"' && after === ':';
    return { space, token, kind: name ? 'name' : kindOf(token) };
  });
}

function kindOf(token) {
  if (token[0] === '"') return 'string';
  return /^[{}[\],:]$/.test(token) ? 'mark' : 'literal';
}

/** The text, indented, as an element. */
function prettyJson(text) {
  const parts = layOut(text);
  const box = el('pre', { class: 'json', tabindex: 0, role: 'region', 'aria-label': 'JSON' });
  if (parts.length > MAX_COLOURED) return add(box, parts.map((part) => part.space + part.token).join(''));
  const shown = parts.map(({ space, token, kind }) => [space, kind === 'mark' ? token : el('span', { class: `j-${kind}` }, token)]);
  return add(box, shown);
}
