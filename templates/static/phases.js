// The bars of the task that runs from here: one a phase that is real, and one a server below it
// where there are several. A phase says how far it is, how fast, and how long it will take.

import { byId, icon, made } from "./dom.js";
import { shortAddress } from "./ollama.js";
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

// How long it has taken since, where that is worth a word.
function time(since) {
  const seconds = (performance.now() - since) / 1000;
  return seconds < 1 ? "" : inMinutes(seconds);
}

function amount(bytes, since) {
  return time(since) ? _("%(size)s in %(time)s", { size: inUnits(bytes), time: time(since) }) : inUnits(bytes);
}

// What a phase that is over says it did; one that nothing was to do for says nothing.
export function end(id) {
  if (ended.has(id) || rowOf(id).hidden) return;
  ended.add(id);
  byId(id).value = 1;
  rowOf(id).className = "phase done";
  const { total, at } = ratesFrom[id] ?? {};
  figuresOf(id).replaceChildren(icon("check2", "good"), total ? ` ${amount(total, at)}` : at ? ` ${time(at)}` : "");
  serverRows(id).filter(row => !row.classList.contains("failed")).forEach(endRow);
}

export function enter(id) {
  if (!PHASES.includes(id)) return;
  rowOf(id).hidden = false;
  rowOf(id).classList.remove("waiting");
  PHASES.slice(0, PHASES.indexOf(id)).filter(isOver).forEach(end);
  current = id;
}

export function endAll() {
  PHASES.forEach(end);
  document.title = "model handler";
}

// Where it stopped, it stays.
export function stop(isFailure) {
  const failed = PHASES.filter(id => serverRows(id).some(row => row.classList.contains("failed")));
  const stopped = isFailure && failed.length ? failed : [current].filter(Boolean);
  for (const id of stopped) rowOf(id).classList.add(isFailure ? "failed" : "stopped");
  document.title = "model handler";
}

function serverRows(id) {
  return [...document.querySelectorAll(`.of-server[data-phase=${id}]`)];
}

const keyOf = (id, server) => `${id} ${server}`;

// A bar for each server below the phase's own.
export function showServers(id, servers) {
  if (serverRows(id).length) return;
  for (const server of servers) addServer(id, server);
}

function addServer(id, server) {
  const key = keyOf(id, server);
  (serverRows(id).at(-1) ?? rowOf(id)).after(made("div", { className: "phase of-server", dataset: { phase: id } },
    made("label", { htmlFor: key, title: server }, shortAddress(server)),
    made("progress", { id: key, max: 1, value: 0 }),
    made("span", { id: `${key}-figures`, className: "num" })));
}

function endRow(row) {
  row.classList.add("done");
  row.querySelector("progress").value = 1;
}

const hasEnded = row => row.matches(".done, .failed");

// Several servers go through the phases side by side: a phase is over once it is for all of them.
const isOver = id => serverRows(id).every(hasEnded);

function rowsOf(server) {
  return PHASES.flatMap(id => serverRows(id).filter(row => row.querySelector("progress").id === keyOf(id, server)));
}

// All that a server had to do is done.
export function endServer(server) {
  rowsOf(server).forEach(endRow);
  PHASES.forEach(showWhole);
}

// A server stops where it is, for the reason that is said; the others go on.
export function failServer(server, reason) {
  const row = rowsOf(server).find(each => !hasEnded(each));
  if (!row) return;
  row.classList.add("failed");
  row.querySelector("span").textContent = reason;
}

// A phase is as far as all of its servers are.
function showWhole(id) {
  const rows = serverRows(id);
  if (!rows.length || ended.has(id)) return;
  const values = rows.map(row => row.querySelector("progress").value);
  byId(id).value = values.reduce((sum, value) => sum + value, 0) / values.length;
  if (rows.every(row => row.classList.contains("done"))) end(id);
}

// What a server does now says that it is done with what comes before.
function endBefore(id, server) {
  for (const earlier of PHASES.slice(0, PHASES.indexOf(id))) {
    const row = byId(keyOf(earlier, server))?.closest(".phase");
    if (row) endRow(row);
    showWhole(earlier);
  }
}

// How far a phase is: `done` from 0 to 1, or `bytes` of `total`; since it began or went on at `from`.
export function progress(id, { done, bytes, total, from = 0, server = "", note = "" }) {
  const key = byId(keyOf(id, server)) ? keyOf(id, server) : id;
  if (key !== id) endBefore(id, server);
  const now = performance.now();
  const start = ratesFrom[key] ??= { at: now, bytes: from || bytes || 0, total };
  if (from && from !== start.from) Object.assign(start, { from, at: now, bytes: from });
  start.total = total;
  const ratio = total ? bytes / total : done;
  if (ratio === undefined || ratio === null) return void (figuresOf(key).textContent = note);
  byId(key).value = ratio;
  if (key !== id) showWhole(id);
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
