// The chart of the last hour, with one bar per minute.

const CHART_HEIGHT = 150;
const AXIS_HEIGHT = 20;

/** Width of the axis labels on the left. */
const AXIS_WIDTH = 34;

/** The segments of a bar, from bottom to top. */
const LAYERS = ['delivered', 'waiting', 'failed'];

const sumOf = (minute) => LAYERS.reduce((sum, layer) => sum + minute[layer], 0);

/** Rounds up to the next of 2, 4, 10, 20, 40, 100, …, so that half of it is a whole number. */
function axisMax(max) {
  for (let power = 1; ; power *= 10) {
    for (const step of [2, 4, 10]) if (step * power >= max) return step * power;
  }
}

const minuteLabel = (minute) => {
  const parts = LAYERS.filter((layer) => minute[layer]).map(
    (layer) => `${count(minute[layer])} ${layer}`,
  );
  return `${timeOfDay(minute.at, false)}: ${parts.join(', ') || 'none'}`;
};

/** The text alternative of the chart. */
function chartSummary({ minutes, complete, since }) {
  const sums = LAYERS.map((layer) => [
    layer,
    minutes.reduce((sum, minute) => sum + minute[layer], 0),
  ]);
  const all = sums.reduce((sum, [, number]) => sum + number, 0);
  const top = minutes.reduce((best, minute) => (sumOf(minute) > sumOf(best) ? minute : best));
  const period = complete ? 'in the last hour' : `since ${timeOfDay(since, false)}`;
  const parts = sums.map(([layer, number]) => `${count(number)} ${layer}`).join(', ');
  const busiest = all ? ` Busiest minute: ${minuteLabel(top)}.` : '';
  return `${plural(all, 'webhook')} accepted ${period}: ${parts}.${busiest}`;
}

function bar(minute, x, width, y) {
  let base = 0;
  const layers = LAYERS.filter((layer) => minute[layer]).map((layer) => {
    const [bottom, top] = [y(base), y(base + minute[layer])];
    base += minute[layer];
    // Keeps small values visible.
    const height = Math.max(bottom - top, 2);
    return svg('rect', { class: `is-${layer}`, x, width, y: bottom - height, height });
  });
  const hit = { class: 'hit', x: x - 1, width: width + 2, y: 0, height: CHART_HEIGHT };
  const tooltip = svg('title', null, minuteLabel(minute));
  return svg('g', { class: 'bar' }, svg('rect', hit), layers, tooltip);
}

function gridLine(number, width, y) {
  const line = { class: 'grid', x1: AXIS_WIDTH, x2: width, y1: y(number), y2: y(number) };
  const label = { class: 'axis', x: AXIS_WIDTH - 6, y: y(number) + 4, 'text-anchor': 'end' };
  return [svg('line', line), svg('text', label, count(number))];
}

/** Shades the minutes before the oldest webhook that the API read. */
function unknownPart(hour, step) {
  if (hour.complete) return null;
  const since = Date.parse(hour.since);
  const minutes = hour.minutes.findLastIndex(({ at }) => Date.parse(at) <= since);
  const size = { x: AXIS_WIDTH, y: 0, width: minutes * step, height: CHART_HEIGHT };
  return minutes > 0 && svg('rect', { class: 'unknown', ...size });
}

/** Draws the chart, `width` pixels wide. */
function hourChart(hour, width) {
  const { minutes } = hour;
  const top = axisMax(Math.max(...minutes.map(sumOf)));
  const y = (number) => CHART_HEIGHT - (number / top) * (CHART_HEIGHT - 8);
  const step = (width - AXIS_WIDTH) / minutes.length;
  const x = (index) => AXIS_WIDTH + index * step;
  const lines = [0, top / 2, top].map((number) => gridLine(number, width, y));
  const times = minutes.map(({ at }, index) => {
    const isShown = new Date(at).getMinutes() % 15 === 0 && x(index) < width - 40;
    const place = { class: 'axis', x: x(index), y: CHART_HEIGHT + 15 };
    return isShown && svg('text', place, timeOfDay(at, false));
  });
  const bars = minutes.map(
    (minute, index) => sumOf(minute) > 0 && bar(minute, x(index) + 1, Math.max(step - 2, 1), y),
  );
  const height = CHART_HEIGHT + AXIS_HEIGHT;
  const size = { width, height, viewBox: `0 0 ${width} ${height}` };
  const label = { role: 'img', 'aria-label': chartSummary(hour) };
  return svg('svg', { ...size, ...label }, unknownPart(hour, step), lines, times, bars);
}
