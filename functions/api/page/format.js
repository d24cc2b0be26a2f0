// Numbers, durations, and times as text.

/** How far the server's clock is ahead of the browser's, in milliseconds. */
let clockOffsetMs = 0;

/** Updates the clock offset from the `now` field of a response. */
function learnServerTime(text) {
  const ms = Date.parse(text);
  if (!Number.isNaN(ms)) clockOffsetMs = ms - Date.now();
}

const serverNow = () => Date.now() + clockOffsetMs;

const count = (number) => number.toLocaleString('en');

const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** `98.7 %`. Rounds down, so that it shows 100 only if nothing failed. */
function percent(share) {
  if (share === 1) return '100\u202f%';
  return `${(Math.floor(share * 1000) / 10).toFixed(1)}\u202f%`;
}

/** `12 per second`, `0.25 per second`, `2 per minute`. */
function perSecond(rate) {
  if (rate < 0.1) return `${(rate * 60).toPrecision(1)} per minute`;
  return `${rate < 10 ? Number(rate.toPrecision(2)) : count(Math.round(rate))} per second`;
}

/** `12 ms`, `4.2 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`. */
function duration(ms) {
  const whole = Math.max(0, ms);
  if (whole < 1000) return `${Math.round(whole)} ms`;
  if (whole < 10_000) return `${(Math.floor(whole / 100) / 10).toFixed(1)} s`;
  const s = Math.floor(whole / 1000);
  if (s < 60) return `${s} s`;
  const units = (big, bigName, small, smallName) =>
    small ? `${big} ${bigName} ${small} ${smallName}` : `${big} ${bigName}`;
  if (s < 3600) return units(Math.floor(s / 60), 'min', s % 60, 's');
  if (s < 86_400) return units(Math.floor(s / 3600), 'h', Math.floor((s % 3600) / 60), 'min');
  return units(Math.floor(s / 86_400), 'd', Math.floor((s % 86_400) / 3600), 'h');
}

/** A duration in one unit, for lists: `now`, `12 s`, `3 min`, `2 h`, `4 d`. */
function roughDuration(ms) {
  const s = Math.floor(Math.max(0, ms) / 1000);
  if (s < 1) return 'now';
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86_400)} d`;
}

const pad = (number, digits = 2) => String(number).padStart(digits, '0');

/** Local time of day, `14:03:07.123`. */
function timeOfDay(time, withMs = true) {
  const at = new Date(time);
  const text = `${pad(at.getHours())}:${pad(at.getMinutes())}`;
  return withMs ? `${text}:${pad(at.getSeconds())}.${pad(at.getMilliseconds(), 3)}` : text;
}

/** Local date and time. */
function dateTime(time) {
  const at = new Date(time);
  return `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${timeOfDay(time)}`;
}

const timeTooltip = (time) => `${dateTime(time)} local time (${time})`;

/** A time element. Its tooltip shows the exact time. */
const moment = (time, shown = dateTime(time)) =>
  el('time', { datetime: time, title: timeTooltip(time) }, shown);

/** The formats of relative times. */
const RELATIVE = {
  ago: (at) => {
    const text = roughDuration(serverNow() - at);
    return text === 'now' ? 'just now' : `${text} ago`;
  },
  age: (at) => duration(Math.floor((serverNow() - at) / 1000) * 1000),
  left: (at) => (at > serverNow() ? `for ${duration(at - serverNow())}` : 'ending now'),
  until: (at) => (at > serverNow() ? `in ${duration(at - serverNow())}` : 'now'),
};

/** A time relative to now, which `updateRelativeTimes` keeps current. */
function relative(format, time) {
  const attributes = { datetime: time, title: timeTooltip(time), 'data-relative': format };
  return el('time', attributes, RELATIVE[format](Date.parse(time)));
}

function updateRelativeTimes() {
  for (const element of document.querySelectorAll('[data-relative]')) {
    const text = RELATIVE[element.dataset.relative](Date.parse(element.dateTime));
    if (element.textContent !== text) element.textContent = text;
  }
}
