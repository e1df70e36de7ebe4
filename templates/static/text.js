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

const UNITS = ["kilobyte", "megabyte", "gigabyte", "terabyte"].map(unit => new Intl.NumberFormat(
  language, { style: "unit", unit, unitDisplay: "short", minimumFractionDigits: 1, maximumFractionDigits: 1 }));

export function inUnits(bytes) {
  const power = Math.min(4, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  return power ? UNITS[power - 1].format(bytes / 1000 ** power) : `${bytes} B`;
}

export function inMinutes(seconds) {
  const whole = Math.ceil(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// Counts of parameters, as models are named in every language: 494M, 8B.
export function inShort(count) {
  const maximumFractionDigits = count < 1e9 ? 0 : 1;
  return new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits }).format(count);
}

const NAME_CHARACTERS = 80;

// What an upload's file name has beside the model's.
export const EXTENSION = /\.(zip|tar|tar\.gz|tgz|tar\.zst|gguf|safetensors)$/i;

// A name that Ollama takes, from a file's or a model's: accents go, what else it doesn't take becomes
// a hyphen; where nothing would stay, a plain name.
export function inName(text) {
  const plain = text.normalize("NFKD").replace(/\p{M}/gu, "").replace(/[^A-Za-z0-9_.-]+/g, "-")
    .replace(/-+/g, "-").replace(/-(?=\.)|(?<=\.)-/g, "").replace(/^[.-]+|[.-]+$/g, "");
  return /[A-Za-z0-9]/.test(plain) ? plain.slice(0, NAME_CHARACTERS) : "my-model";
}

// What the service calls by its route, the page calls by its button.
export const inPage = said => said.replace(/POST \/models\/create\/(\?\S+)?/g, _("“Create again”"));

// Whether the service says, in whatever language, that its field for a base is to be filled.
export const wantsBase = said => /['「]from['」]/.test(said);
