// The task that runs from here: its bars, its lines, and how it ended. And the recent ones.

import { offerTrial } from "./chat.js";
import { byId, made, memory } from "./dom.js";
import { on, refresh } from "./feed.js";
import { chosenServer } from "./ollama.js";
import { askForKey, open } from "./service.js";
import { _, inMinutes, inUnits, language, linesOf } from "./text.js";

const PHASES = ["upload", "extract", "push", "create"];
const PHASE_OF = [
  [/^Start(ed)? (save|extract)|^Extracting/, "extract"],
  [/^Start(ed to)? create|^Pushing|^Hashing|^Merging|^Converting/, "push"],
  [/^Start structure|^Ollama:|^Verif/, "create"],
];
const STATES = {
  running: _("running"), succeeded: _("succeeded"), failed: _("failed"), stopped: _("stopped"),
};
const SHOWN_TASKS = 10;
const hasChanged = memory();
let running = null;
let phase = "";
let shown = 0;  // of the answer, in characters

export const CREATE_PHASES = PHASES.slice(2);
export const DEPLOY_PHASES = PHASES;

function say(text, failed = false) {
  if (byId("said").textContent !== text) byId("said").textContent = text;
  byId("said").className = failed ? "error" : "";
}

function rowOf(id) {
  return byId(id).parentElement;
}

function fail(text) {
  if (phase) rowOf(phase).classList.add("failed");
  say(text, true);
}

function complete(ids) {
  for (const id of ids) {
    byId(id).value = 1;
    if (id !== "upload") byId(`${id}-figures`).textContent = "✓";
  }
}

function enter(next) {
  phase = next;
  complete(PHASES.slice(0, PHASES.indexOf(next)));
}

function showUpload(event, started) {
  const seconds = (performance.now() - started) / 1000;
  const rate = event.loaded / Math.max(seconds, 0.001);
  const left = event.total - event.loaded;
  byId("upload").value = event.loaded / event.total;
  byId("upload-figures").textContent = [
    left ? `${inUnits(event.loaded)} / ${inUnits(event.total)}` : inUnits(event.total),
    `${inUnits(rate)}/s`,
    left ? _("%(time)s left", { time: inMinutes(left / rate) }) : "✓",
  ].join(" · ");
}

function showFigures({ action, details }) {
  const { bytes, total_bytes: total, server, ollama } = details;
  const done = total ? bytes / total : ollama?.total ? (ollama.completed ?? 0) / ollama.total : null;
  if (done !== null) byId(phase).value = done;
  const amount = total ? `${inUnits(bytes)} / ${inUnits(total)}` : "";
  const where = byId("server-choice").hidden ? "" : server;
  byId(`${phase}-figures`).textContent = [action, amount, where].filter(Boolean).join(" ");
}

function finish(name) {
  complete(PHASES);
  say(_("%(model)s is on Ollama. Chat with it:", { model: name }));
  byId("run").textContent = `ollama run ${name}`;
  byId("made").hidden = false;
  offerTrial(name);
}

function showLine({ status, message }) {
  const { error, hint, model_name_on_ollama: created } = message.details;
  if (status !== 200) return fail([message.action, error, hint].filter(Boolean).join("\n"));
  if (created) return finish(created);
  const next = PHASE_OF.find(([pattern]) => pattern.test(message.action))?.[1];
  if (next) enter(next);
  if (next) showFigures(message);
  say(message.action);
}

function showLines(text) {
  const fresh = text.slice(shown, text.lastIndexOf("\n") + 1);
  shown += fresh.length;
  byId("log").append(fresh);
  linesOf(fresh).forEach(showLine);
}

function reset(title, phases) {
  byId("task").hidden = false;
  byId("task-title").textContent = title;
  byId("made").hidden = true;
  byId("copy").textContent = _("Copy");
  byId("log").textContent = "";
  for (const id of PHASES) {
    byId(id).value = 0;
    byId(`${id}-figures`).textContent = "";
    rowOf(id).classList.remove("failed");
    rowOf(id).hidden = !phases.includes(id);
  }
  phase = phases[0] ?? "";
  shown = 0;
  say("");
}

function setRunning(request) {
  running = request;
  byId("send").disabled = Boolean(request);
  byId("cancel").hidden = !request;
}

// Runs one task at a time: a form's or a JSON object's way to `path`.
export function run(method, path, body, title, phases) {
  if (running) return say(_("A task is running: wait for its end, or cancel it."));
  const isForm = body instanceof FormData;
  const server = chosenServer();
  const query = server ? `&server=${encodeURIComponent(server)}` : "";
  const request = open(method, `${path}?verbose=1${query}`);
  const started = performance.now();
  reset(title, phases);
  setRunning(request);
  request.upload.onprogress = event => isForm && showUpload(event, started);
  request.onprogress = () => showLines(request.responseText);
  request.onload = () => showLines(request.responseText);
  request.onerror = () => fail(_("The connection was lost."));
  request.onabort = () => say(CREATE_PHASES.includes(phase)
    ? _("Cancelled. The model is kept here and can be created later.")
    : _("Cancelled. Nothing was kept."));
  request.onloadend = async () => {
    setRunning(null);
    refresh();
    if (request.status === 401 && await askForKey()) run(method, path, body, title, phases);
  };
  if (!isForm) request.setRequestHeader("Content-Type", "application/json");
  request.send(isForm ? body : JSON.stringify(body));
  byId("task").scrollIntoView({ block: "nearest" });
}

function taskItem({ started, model, action, state, progress_ratio: ratio }) {
  const item = made("li", { className: "d-flex flex-wrap gap-2 py-1" },
    made("time", { dateTime: started, className: "text-body-secondary num" },
      new Date(started).toLocaleTimeString(language)),
    made("span", { className: "name" }, model ?? ""),
    made("span", { className: state === "failed" ? "text-danger" : "" },
      `${STATES[state]}: ${action ?? _("Upload")}`));
  if (state === "running") item.append(made("progress", { value: ratio }));
  return item;
}

function showTasks(tasks) {
  if (!hasChanged(tasks)) return;
  byId("tasks").replaceChildren(...tasks.slice(0, SHOWN_TASKS).map(taskItem));
  byId("no-tasks").hidden = tasks.length > 0;
}

// Works on pages without TLS too, where there is no navigator.clipboard.
function copy() {
  getSelection().selectAllChildren(byId("run"));
  document.execCommand("copy");
  byId("copy").textContent = _("Copied");
}

byId("cancel").addEventListener("click", () => running.abort());
byId("copy").addEventListener("click", copy);
addEventListener("beforeunload", event => running && event.preventDefault());
on("open", state => byId("recent").hidden = state !== "yes");
on("tasks", showTasks);
