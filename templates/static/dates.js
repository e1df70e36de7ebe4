// Dates and times as people of the page's language write them.

import { language } from "./text.js";

const DAY_MS = 24 * 3600 * 1000;
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
const whole = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
const time = new Intl.DateTimeFormat(language, { timeStyle: "short" });
const dayOfYear = new Intl.DateTimeFormat(language, { day: "numeric", month: "short" });
const day = new Intl.DateTimeFormat(language, { dateStyle: "medium" });

function midnight(date) {
  return new Date(date.getFullYear(), date.getMonth(), date.getDate());
}

// The time of today, "yesterday", a day of this year, or a date.
export function inDays(text) {
  const date = new Date(text), now = new Date();
  const days = Math.round((midnight(now) - midnight(date)) / DAY_MS);
  if (days === 0) return time.format(date);
  if (days === 1) return relative.format(-1, "day");
  return (date.getFullYear() === now.getFullYear() ? dayOfYear : day).format(date);
}

export function inFull(text) {
  return whole.format(new Date(text));
}

export function inSeconds(seconds) {
  const unit = seconds < 90 ? "second" : "minute";
  const count = seconds < 90 ? seconds : seconds / 60;
  return new Intl.NumberFormat(language, {
    style: "unit", unit, unitDisplay: "short", maximumFractionDigits: seconds < 10 ? 1 : 0,
  }).format(count);
}
