// The page's texts, and numbers as people read them.

export const byId = id => document.getElementById(id);
export const texts = JSON.parse(byId("texts").textContent);

export function inUnits(bytes) {
  const power = Math.min(4, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  return (bytes / 1000 ** power).toFixed(power ? 1 : 0) + " " + ["B", "kB", "MB", "GB", "TB"][power];
}

export function inMinutes(seconds) {
  const whole = Math.ceil(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

export function inShort(count) {
  return new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(count);
}

// A name that Ollama takes, from a file's or a model's; empty where nothing of it can stay.
export function inName(text) {
  return text.replace(/[^\w.-]+/g, "-").replace(/^[.-]+|-+$/g, "").slice(0, 80);
}

export function linesOf(text) {
  return text.split("\n").slice(0, -1).map(line => JSON.parse(line));
}
