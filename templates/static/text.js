// The page's texts by their English, and numbers and dates as people read them.

const catalogue = JSON.parse(document.getElementById("catalogue").textContent);
export const language = document.documentElement.lang;

function filled(text, values) {
  return text.replace(/%\((\w+)\)[sd]|%%/g, (found, name) => name ? values[name] : "%");
}

export function _(text, values = {}) {
  return filled(catalogue[text] || text, values);
}

// For one and for many; `%(num)d` is the count.
export function ngettext(one, many, num, values = {}) {
  const known = catalogue[one];
  return filled(known ? known[0] : num === 1 ? one : many, { num, ...values });
}

export function inUnits(bytes) {
  const power = Math.min(4, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  return (bytes / 1000 ** power).toFixed(power ? 1 : 0) + " " + ["B", "kB", "MB", "GB", "TB"][power];
}

export function inMinutes(seconds) {
  const whole = Math.ceil(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

export function inShort(count) {
  return new Intl.NumberFormat(language, { notation: "compact", maximumFractionDigits: 1 }).format(count);
}

// A name that Ollama takes, from a file's or a model's; empty where nothing of it can stay.
export function inName(text) {
  return text.replace(/[^\w.-]+/g, "-").replace(/^[.-]+|-+$/g, "").slice(0, 80);
}

export function linesOf(text) {
  return text.split("\n").slice(0, -1).map(line => JSON.parse(line));
}
