// The task that runs from here: its bars, its lines, how it ended, and what can be done then.

import { inWords } from "./actions.js";
import { offerTrial } from "./chat.js";
import { byId, made } from "./dom.js";
import { refresh } from "./feed.js";
import { chosenServer } from "./ollama.js";
import { currentPhase, end, endAll, endServer, enter, failServer, progress, showPhases, showServers, stop } from "./phases.js";
import { ask, askForKey, linesOf } from "./service.js";
import { _, inPage, wantsBase } from "./text.js";
import { forget, Refused, Upload } from "./upload.js";
import "./recent.js";

const PHASE_OF = [
  [/^Merging|^Convert/, "convert"],
  [/^Hashing|^Pushing/, "push"],
  [/^Start structure|^Ollama:/, "create"],
  [/^Verif/, "verify"],
];
const UNUSABLE = 422;
const MADE_PHASES = ["push", "create", "verify"];
let running = null;
let targets = [];  // the servers that it is made on, where they are several
let stored = "";  // the model that the upload has become

export const CREATE_PHASES = MADE_PHASES;

function say(text, failed = false) {
  if (byId("said").textContent !== text) byId("said").textContent = text;
  byId("said").className = failed ? "error" : "";
}

function offer(text, action) {
  const button = made("button", { type: "button", className: "btn btn-sm btn-outline-secondary" }, text);
  button.addEventListener("click", action);
  byId("next-steps").append(button);
}

function fail(text) {
  stop(true);
  say(text, true);
}

function finish(name) {
  endAll();
  say(_("%(model)s is on Ollama. Chat with it:", { model: name }));
  byId("run").textContent = `ollama run ${name}`;
  byId("made").hidden = false;
  offerTrial(name);
}

function showFigures(phase, { action, details }) {
  const { bytes, total_bytes: total, server, ollama } = details;
  const done = ollama?.total ? (ollama.completed ?? 0) / ollama.total : undefined;
  const note = action.startsWith("Ollama: ") ? action.replace("Ollama: ", "") : "";
  if (phase !== "convert" && phase !== "upload") MADE_PHASES.forEach(each => showServers(each, targets));
  progress(phase, { bytes, total, done, note, server });
}

function showLine({ status, message }) {
  const { error, hint, model_name_on_ollama: created } = message.details;
  if (status !== 200) return fail(inPage([error, hint].filter(Boolean).join("\n")) || message.action);
  if (created) return finish(created);
  if (message.action === "Start create model.") stored = message.details.model;
  if (message.details.servers) targets = message.details.servers.map(each => each.server);
  if (message.action === "Made on one server.") endServer(message.details.server);
  if (message.action === "Failed on one server.") failServer(message.details.server, error);
  const phase = PHASE_OF.find(([pattern]) => pattern.test(message.action))?.[1];
  if (phase) {
    enter(phase);
    showFigures(phase, message);
  }
  say(inWords(message.action));
}

// Each line of an answer as it comes; resolves to the last one.
async function readLines(answer) {
  let last = null;
  for await (const line of linesOf(answer)) {
    byId("log").append(`${line}\n`);
    last = JSON.parse(line);
    showLine(last);
  }
  return last;
}

function reset(title, phases) {
  byId("task").hidden = false;
  byId("task-title").textContent = title;
  byId("made").hidden = true;
  byId("copy").textContent = _("Copy");
  byId("log").textContent = byId("left").textContent = "";
  byId("next-steps").replaceChildren();
  showPhases(phases);
  stored = "";
  targets = [];
  say("");
}

function setRunning(task) {
  running = task;
  byId("send").disabled = Boolean(task);
  byId("cancel").hidden = byId("state").hidden = !task;
  byId("pause").hidden = true;
  byId("left").textContent = "";
  document.dispatchEvent(new CustomEvent("running", { detail: Boolean(task) }));
}

// Runs one task at a time; `work(task)` resolves once it is over. Asks for the key where that is
// all that is missing, and begins again.
async function oneAtATime(title, phases, work) {
  if (running) return say(_("A task is running: wait for its end, or cancel it."));
  const stopper = new AbortController();
  const task = { signal: stopper.signal, cancel: () => stopper.abort() };
  reset(title, phases);
  setRunning(task);
  byId("task").scrollIntoView({ block: "nearest" });
  let again = false;
  try {
    await work(task);
  } catch (error) {
    again = error.status === 401;
    if (error.name === "AbortError") showCancelled();
    else fail(error instanceof Refused ? error.message : _("The connection was lost."));
    if (error.name !== "AbortError" && !again) offerNext(error.status, error.message, () => oneAtATime(title, phases, work));
  }
  setRunning(null);
  refresh();
  if (again && await askForKey()) oneAtATime(title, phases, work);
}

function showCancelled() {
  stop(false);
  say(MADE_PHASES.includes(currentPhase()) || currentPhase() === "convert"
    ? _("Cancelled. The model is kept here and can be created later.")
    : _("Cancelled. Nothing was kept."));
}

// One request whose answer is lines; resolves to the last one, rejects with Refused for a 401.
async function exchange(task, method, path, fields) {
  const server = chosenServer();
  const query = server ? `&server=${encodeURIComponent(server)}` : "";
  const answer = await ask(`${path}?verbose=1${query}`, {
    method, signal: task.signal, body: JSON.stringify(fields),
    headers: { "Content-Type": "application/json" },
  });
  if (answer.status === 401) throw new Refused(401, (await answer.json()).message.details);
  return readLines(answer);
}

// A JSON object's way to `path`, for what is stored already.
export function run(method, path, fields, title, phases) {
  return oneAtATime(title, phases, async task => {
    const last = await exchange(task, method, path, fields);
    if (last.status === 200) return;
    offer(_("Try again"), () => run(method, path, fields, title, phases));
    const edit = () => document.dispatchEvent(new CustomEvent("edit-modelfile", { detail: fields.model }));
    if (fields.modelfile) offer(_("Edit the Modelfile…"), edit);
  });
}

function showUpload({ sent, size, from, waiting }) {
  if (waiting) return say(waiting);
  say("");
  progress("upload", { bytes: sent, total: size, from });
}

function offerPause(task, upload) {
  const button = byId("pause");
  const show = () => button.textContent = upload.isPaused ? _("Go on") : _("Pause");
  button.hidden = false;
  button.onclick = () => {
    if (upload.isPaused) upload.resume();
    else upload.pause();
    say(upload.isPaused ? _("Paused. What has arrived is kept.") : "");
    show();
  };
  show();
  task.cancel = () => upload.cancel();
}

// What can be done about a failure, as buttons.
function offerNext(status, text, again) {
  if (wantsBase(text)) offer(_("Choose a base…"), () => document.dispatchEvent(new Event("choose-base")));
  if (status === UNUSABLE) offer(_("Choose another file"), () => document.dispatchEvent(new Event("choose-file")));
  else offer(_("Try again"), again);
}

const textOf = ({ message: { details } }) => [details.error, details.hint].join(" ");

// Uploads a bundle and has it deployed; `before()` rejects with Refused for what would be refused.
export function deploy(bundle, fields, phases, before) {
  const title = fields.model_name_on_ollama;
  return oneAtATime(title, phases, async task => {
    await before(task.signal);
    const upload = new Upload({ ...bundle, as: title }, showUpload);
    offerPause(task, upload);
    const path = await upload.run();
    end("upload");
    byId("pause").hidden = true;
    const stopper = new AbortController();
    task.cancel = () => stopper.abort();
    const id = path.split("/").at(-1);
    const body = { ...fields, upload: id };
    const said = await exchange({ signal: stopper.signal }, "POST", "/models/deploy/", body);
    if (stored) forget(bundle.key);
    if (said.status === 200) return;
    if (!stored) return offerNext(said.status, textOf(said), () => deploy(bundle, fields, phases, before));
    const wanted = { ...fields, model: stored };
    offer(_("Create again without uploading"), () => run("POST", "/models/create/", wanted, title, CREATE_PHASES));
  });
}

// Works on pages without TLS too, where there is no navigator.clipboard.
function copy() {
  getSelection().selectAllChildren(byId("run"));
  document.execCommand("copy");
  byId("copy").textContent = _("Copied");
}

byId("cancel").addEventListener("click", () => running?.cancel());
byId("copy").addEventListener("click", copy);
addEventListener("beforeunload", event => running && event.preventDefault());
