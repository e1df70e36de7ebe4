// The bars of the task that runs from here: one a phase that is real, and one a server below it
// where there are several. A phase says how far it is, how fast, and how long it will take.

import { byId, icon, made } from "./dom.js";
import { _, inMinutes, inUnits } from "./text.js";

export const PHASES = ["upload", "convert", "push", "create", "verify"];
const LEAST_SECONDS = 0.5;
const ratesFrom = {};
const ended = new Set();
let current = "";

const rowOf = id => byId(id).closest(".phase");
const figuresOf = id => byId(`${id}-figures`);

export function currentPhase() {
  return current;
}

export function showPhases(ids) {
  for (const id of PHASES) {
    byId(id).value = 0;
    figuresOf(id).replaceChildren();
    rowOf(id).className = "phase waiting";
    rowOf(id).hidden = !ids.includes(id);
    delete ratesFrom[id];
  }
  ended.clear();
  for (const row of document.querySelectorAll(".phase.of-server")) row.remove();
  current = ids[0] ?? "";
}

function amount(bytes, since) {
  const seconds = (performance.now() - since) / 1000;
  return seconds < 1 ? inUnits(bytes) : _("%(size)s in %(time)s", { size: inUnits(bytes), time: inMinutes(seconds) });
}

// What a phase that is over says it did; one that nothing was to do for says nothing.
function end(id) {
  if (ended.has(id) || rowOf(id).hidden) return;
  ended.add(id);
  byId(id).value = 1;
  rowOf(id).className = "phase done";
  const { total, at } = ratesFrom[id] ?? {};
  figuresOf(id).replaceChildren(icon("check2", "text-success"), total ? ` ${amount(total, at)}` : "");
}

export function enter(id) {
  if (!PHASES.includes(id)) return;
  rowOf(id).hidden = false;
  rowOf(id).classList.remove("waiting");
  PHASES.slice(0, PHASES.indexOf(id)).forEach(end);
  current = id;
}

export function endAll() {
  PHASES.forEach(end);
  document.title = "model handler";
}

// Where it stopped, it stays.
export function stop(isFailure) {
  if (current) rowOf(current).classList.add(isFailure ? "failed" : "stopped");
  document.title = "model handler";
}

function serverBar(id, server) {
  const key = `${id} ${server}`;
  let bar = byId(key);
  if (!bar) {
    bar = made("progress", { id: key, max: 1, value: 0 });
    const rows = [...document.querySelectorAll(`.of-server[data-phase=${id}]`)];
    (rows.at(-1) ?? rowOf(id)).after(made("div", { className: "phase of-server", dataset: { phase: id } },
      made("label", { htmlFor: key, className: "name" }, server.replace(/^https?:\/\//, "")), bar,
      made("span", { id: `${key}-figures`, className: "num" })));
  }
  return key;
}

// How far a phase is: `done` from 0 to 1, or `bytes` of `total`; since it began or went on at `from`.
export function progress(id, { done, bytes, total, from = 0, server = "", note = "" }) {
  const key = server ? serverBar(id, server) : id;
  const now = performance.now();
  const start = ratesFrom[key] ??= { at: now, bytes: from || bytes || 0, total };
  if (from && from !== start.from) Object.assign(start, { from, at: now, bytes: from });
  start.total = total;
  const ratio = total ? bytes / total : done;
  if (ratio === undefined || ratio === null) return void (figuresOf(key).textContent = note);
  byId(key).value = ratio;
  const seconds = (now - start.at) / 1000;
  const rate = bytes === undefined ? 0 : (bytes - start.bytes) / seconds;
  const isKnown = seconds >= LEAST_SECONDS && rate > 0 && ratio < 1;
  const left = isKnown ? _("%(time)s left", { time: inMinutes((total - bytes) / rate) }) : "";
  figuresOf(key).textContent = [
    `${Math.floor(100 * ratio)} %`, isKnown && `${inUnits(rate)}/s`, left, note,
  ].filter(Boolean).join(" · ");
  byId("left").textContent = left;
  document.title = `${left || `${Math.floor(100 * ratio)} %`} · ${byId("task-title").textContent}`;
}
