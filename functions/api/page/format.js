// Numbers and times, as people read them.

/** How far the server's clock is ahead of this one, in milliseconds. */
let aheadMs = 0;

/** Learns the server's time from an answer that tells it. */
function learnTime(text) {
  const ms = Date.parse(text);
  if (!Number.isNaN(ms)) aheadMs = ms - Date.now();
}

const serverNow = () => Date.now() + aheadMs;

const count = (number) => number.toLocaleString('en');

const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** `98.7 %`; never 100 if anything failed. */
function percent(share) {
  if (share === 1) return '100\u202f%';
  return `${(Math.floor(share * 1000) / 10).toFixed(1)}\u202f%`;
}

/** `12 ms`, `4.2 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`. */
function duration(ms) {
  const whole = Math.max(0, ms);
  if (whole < 1000) return `${Math.round(whole)} ms`;
  if (whole < 10_000) return `${(Math.floor(whole / 100) / 10).toFixed(1)} s`;
  const s = Math.floor(whole / 1000);
  if (s < 60) return `${s} s`;
  const two = (big, bigName, small, smallName) => (small ? `${big} ${bigName} ${small} ${smallName}` : `${big} ${bigName}`);
  if (s < 3600) return two(Math.floor(s / 60), 'min', s % 60, 's');
  if (s < 86_400) return two(Math.floor(s / 3600), 'h', Math.floor((s % 3600) / 60), 'min');
  return two(Math.floor(s / 86_400), 'd', Math.floor((s % 86_400) / 3600), 'h');
}

/** The same in one unit, for lists: `now`, `12 s`, `3 min`, `2 h`, `4 d`. */
function roughly(ms) {
  const s = Math.floor(Math.max(0, ms) / 1000);
  if (s < 1) return 'now';
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86_400)} d`;
}

const two = (number) => String(number).padStart(2, '0');

/** Local time of day, `14:03:07.123`. */
function timeOfDay(time, withMs = true) {
  const at = new Date(time);
  const text = `${two(at.getHours())}:${two(at.getMinutes())}`;
  return withMs ? `${text}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, '0')}` : text;
}

/** Local date and time. */
function dateTime(time) {
  const at = new Date(time);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${timeOfDay(time)}`;
}

/** A moment by its local time, with the exact one for who points at it. */
const moment = (time, shown = dateTime(time)) => el('time', { datetime: time, title: `${dateTime(time)} here, ${time}` }, shown);

/** How each kind of running time is written; `tick` keeps them right. */
const RUNNING = {
  ago: (at) => {
    const text = roughly(serverNow() - at);
    return text === 'now' ? 'just now' : `${text} ago`;
  },
  age: (at) => duration(Math.floor((serverNow() - at) / 1000) * 1000),
  until: (at) => (at > serverNow() ? `in ${duration(at - serverNow())}` : 'now'),
};

/** A moment by its distance from now, which goes on by itself. */
function running(kind, time) {
  const at = Date.parse(time);
  return el('time', { datetime: time, title: `${dateTime(time)} here, ${time}`, 'data-running': kind }, RUNNING[kind](at));
}

/** Writes all running times anew. */
function tick() {
  for (const element of document.querySelectorAll('[data-running]')) {
    const text = RUNNING[element.dataset.running](Date.parse(element.dateTime));
    if (element.textContent !== text) element.textContent = text;
  }
}
