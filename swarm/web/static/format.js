// Numbers and times as people of the field write them.

export const bpb = (value) => (value === null || value === undefined ? "–" : value.toFixed(6));
export const signed = (value, digits = 6) =>
  value === null || value === undefined ? "–" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
export const percent = (share, digits = 0) =>
  share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)} %`;
export const count = (value) => value.toLocaleString("en-US");
/** $12.30, $30,722, or $0.0042 for what is less than a dime */
export function usd(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1000) return `$${count(Math.round(value))}`;
  return `$${value.toFixed(value >= 0.1 || !value ? 2 : 4)}`;
}

/** 950, 12 k, 3.4 M */
export function short(value) {
  if (value === null || value === undefined) return "–";
  for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    // A unit begins where the one below it would be rounded to 1000.
    if (value >= 0.9995 * size) return `${(value / size).toPrecision(3)} ${unit}`;
  }
  return value.toFixed(0);
}

/** 8 h 41 min, 3 min 20 s, 12 s */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** 4:52, for what is left */
export function left(seconds) {
  const s = Math.max(0, Math.round(seconds));
  return `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`;
}

const two = (value) => String(value).padStart(2, "0");
const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");

/** The time of day where the reader is; midnight is a date. */
export function clock(date, withSeconds = false) {
  const time = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (withSeconds) return `${time}:${two(date.getSeconds())}`;
  return time === "00:00" ? day(date) : time;
}

export const day = (date) => `${MONTHS[date.getMonth()]} ${date.getDate()}`;
export const moment = (date) => `${day(date)} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
