// The last hour, a bar for each minute.

const CHART_HEIGHT = 150;
const AXIS_HEIGHT = 20;

/** Room for the figures at the left. */
const AXIS_WIDTH = 34;

/** From the bottom of a bar to its top. */
const LAYERS = ['delivered', 'waiting', 'failed'];

const sumOf = (minute) => LAYERS.reduce((sum, layer) => sum + minute[layer], 0);

/** The next of 2, 4, 10, 20, 40, 100, … so that half of it is whole. */
function niceTop(max) {
  for (let power = 1; ; power *= 10) {
    for (const step of [2, 4, 10]) if (step * power >= max) return step * power;
  }
}

const inAMinute = (minute) => {
  const parts = LAYERS.filter((layer) => minute[layer]).map((layer) => `${count(minute[layer])} ${layer}`);
  return `${timeOfDay(minute.at, false)}: ${parts.join(', ') || 'none'}`;
};

/** The figures in a sentence, for who does not see the bars. */
function hourInWords({ minutes, complete, since }) {
  const sums = LAYERS.map((layer) => [layer, minutes.reduce((sum, minute) => sum + minute[layer], 0)]);
  const all = sums.reduce((sum, [, number]) => sum + number, 0);
  const top = minutes.reduce((best, minute) => (sumOf(minute) > sumOf(best) ? minute : best));
  const from = complete ? 'in the last hour' : `since ${timeOfDay(since, false)}`;
  const parts = sums.map(([layer, number]) => `${count(number)} ${layer}`).join(', ');
  return `${plural(all, 'webhook')} accepted ${from}: ${parts}.${all ? ` Most in one minute: ${inAMinute(top)}.` : ''}`;
}

function bar(minute, x, width, y) {
  let base = 0;
  const layers = LAYERS.filter((layer) => minute[layer]).map((layer) => {
    const [bottom, top] = [y(base), y(base + minute[layer])];
    base += minute[layer];
    // What is there can be seen, however little it is.
    const height = Math.max(bottom - top, 2);
    return svg('rect', { class: `is-${layer}`, x, width, y: bottom - height, height });
  });
  const whole = svg('rect', { class: 'hit', x: x - 1, width: width + 2, y: 0, height: CHART_HEIGHT });
  return svg('g', { class: 'bar' }, whole, layers, svg('title', null, inAMinute(minute)));
}

/** The hour as a picture `width` pixels wide. */
function hourChart(hour, width) {
  const { minutes } = hour;
  const top = niceTop(Math.max(...minutes.map(sumOf)));
  const y = (number) => CHART_HEIGHT - (number / top) * (CHART_HEIGHT - 8);
  const step = (width - AXIS_WIDTH) / minutes.length;
  const x = (index) => AXIS_WIDTH + index * step;
  const lines = [0, top / 2, top].map((number) => [
    svg('line', { class: 'grid', x1: AXIS_WIDTH, x2: width, y1: y(number), y2: y(number) }),
    svg('text', { class: 'axis', x: AXIS_WIDTH - 6, y: y(number) + 4, 'text-anchor': 'end' }, count(number)),
  ]);
  const times = minutes.map(({ at }, index) => {
    const isShown = new Date(at).getMinutes() % 15 === 0 && x(index) < width - 40;
    return isShown && svg('text', { class: 'axis', x: x(index), y: CHART_HEIGHT + 15 }, timeOfDay(at, false));
  });
  const known = hour.complete ? 0 : minutes.findLastIndex(({ at }) => Date.parse(at) <= Date.parse(hour.since));
  const unknown = known > 0 && svg('rect', { class: 'unknown', x: AXIS_WIDTH, y: 0, width: known * step, height: CHART_HEIGHT });
  const bars = minutes.map((minute, index) => sumOf(minute) > 0 && bar(minute, x(index) + 1, Math.max(step - 2, 1), y));
  const size = { width, height: CHART_HEIGHT + AXIS_HEIGHT, viewBox: `0 0 ${width} ${CHART_HEIGHT + AXIS_HEIGHT}` };
  return svg('svg', { ...size, role: 'img', 'aria-label': hourInWords(hour) }, unknown, lines, times, bars);
}
