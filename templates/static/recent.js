// What has run lately, from wherever; and the uploads of this browser that aren't whole yet.

import { inWords } from "./actions.js";
import { create } from "./create.js";
import { inDays } from "./dates.js";
import { byId, icon, made, memory } from "./dom.js";
import { on, refresh } from "./feed.js";
import { ask } from "./service.js";
import { _, EXTENSION, inMinutes, inPage, inUnits, language } from "./text.js";
import { forgetOthers, remove, unfinished } from "./upload.js";

const SHOWN_TASKS = 10;
const EMPTY = ["tasks-loading", "no-tasks", "tasks-closed", "tasks-failed"];
const STATES = {
  running: ["hourglass-split", "text-primary", _("running")],
  succeeded: ["check-circle-fill", "good", _("succeeded")],
  failed: ["x-circle-fill", "text-danger", _("failed")],
  stopped: ["stop-circle", "careful", _("stopped")],
};
const hasOthers = memory();
const begun = new Map();  // by task: what it was doing, and how far, when that was first seen
let items = new Map();  // by task, those that are shown
let isRunning = false;
let stored = new Map();
let tasks = null;
let open = "";

function item([name, colour, word], heading, time, ...content) {
  return made("li", { className: "d-flex gap-3" },
    made("span", { className: colour }, icon(name), made("span", { className: "visually-hidden" }, word)),
    made("div", { className: "flex-grow-1 name" }, heading, ...content),
    made("time", { dateTime: time, className: "small text-body-secondary num text-nowrap" }, inDays(time)));
}

function heading({ model, model_name_on_ollama: made_as }) {
  const name = made("bdi", {}, model ?? "");
  return made("div", {}, name, ...made_as ? [" → ", made("b", {}, made_as)] : []);
}

async function showLines(uuid, details) {
  if (!details.open || details.lastChild.tagName === "PRE") return;
  const answer = await ask(`/tasks/${uuid}`);
  details.append(made("pre", { tabIndex: 0 }, await answer.text()));
}

function linesOf(uuid) {
  const details = made("details", { className: "small mt-1" }, made("summary", {}, _("What the service said")));
  details.addEventListener("toggle", () => showLines(uuid, details));
  return details;
}

// Wherever it was begun: it ends as if its client had left.
async function stop(uuid, pressed) {
  pressed.disabled = true;
  await ask(`/tasks/${uuid}`, { method: "DELETE" }).catch(() => {});
  await refresh();
  pressed.disabled = false;
}

// The stored model that a task was about; an upload is called as its file was.
function nameOf({ model }) {
  return [model, model?.replace(EXTENSION, "")].find(name => stored.has(name));
}

function taskItem(task) {
  const { started, state: how, action, error, hint, task_uuid: uuid } = task;
  const step = action ? inWords(action) : _("Upload");
  const said = error ? inPage(error) : how === "stopped" ? _("Stopped. Its last step: %(step)s", { step }) : step;
  const more = [made("div", { className: `small ${error ? "" : "text-body-secondary"}` }, said)];
  if (hint) more.push(made("div", { className: "small text-body-secondary" }, inPage(hint)));
  const facts = how === "failed" || how === "stopped" ? stored.get(nameOf(task)) : undefined;
  if (facts) more.push(made("div", { className: "mt-2" }, button(_("Create again"), () => create(stored.get(facts.model)), `${_("Create again")} ${facts.model}`)));
  else if (how === "failed" && action === "Failed upload model file.") {
    const another = () => document.dispatchEvent(new Event("choose-file"));
    more.push(made("div", { className: "mt-2" }, button(_("Choose another file"), another, `${_("Choose another file")}: ${task.model ?? ""}`)));
  }
  if (how === "running") {
    more.push(made("progress", { ariaLabel: said, className: "my-2" }),
      button(_("Cancel"), event => stop(uuid, event.target), `${_("Cancel")} ${task.model ?? ""}`));
  }
  return item(STATES[how], heading(task), started, ...more, linesOf(uuid));
}

// What a running task does now: how far, how fast, how long still.
function showProgress({ element }, { task_uuid: uuid, progress_ratio: ratio, action, now }) {
  const bar = element.querySelector("progress");
  bar.value = now?.total_bytes ? now.bytes / now.total_bytes : now?.ratio ?? ratio;
  const doing = now?.action ?? action;
  const figures = now?.total_bytes ? figuresOf(uuid, doing, now) : [];
  bar.ariaLabel = doing ? inWords(doing) : _("Upload");
  bar.previousSibling.textContent = [bar.ariaLabel, ...figures].join(" ");
}

function figuresOf(uuid, action, { bytes, total_bytes: total }) {
  const known = begun.get(uuid), at = performance.now() / 1000;
  if (known?.action !== action || bytes < known.bytes) begun.set(uuid, { action, bytes, at });
  const since = begun.get(uuid), rate = (bytes - since.bytes) / (at - since.at);
  const figures = [`${Math.floor(100 * bytes / total)} %`, _("%(sent)s of %(size)s", { sent: inUnits(bytes), size: inUnits(total) })];
  if (rate > 0) figures.push(`${inUnits(rate)}/s`, _("%(time)s left", { time: inMinutes((total - bytes) / rate) }));
  return [figures.join(" · ")];
}

function button(text, action, label) {
  const element = made("button", { type: "button", className: "btn btn-sm btn-outline-secondary" }, text);
  element.setAttribute("aria-label", label);
  element.addEventListener("click", action);
  return element;
}

function uploadItem({ upload: id, name, bytes, total_bytes: total, started, expires }) {
  const path = `/uploads/${id}`;
  const known = unfinished().find(each => each.path === path);
  const isWhole = bytes === total;
  const until = new Date(expires).toLocaleDateString(language, { day: "numeric", month: "short" });
  const said = isWhole ? _("The upload is whole; kept until %(date)s", { date: until })
    : _("%(sent)s of %(size)s have arrived; kept until %(date)s",
      { sent: inUnits(bytes), size: inUnits(total), date: until });
  const upload = { key: known?.key ?? path, path, name, size: total, as: known?.as };
  const goOn = isWhole ? _("Deploy it") : _("Go on: choose the file again");
  return item(["pause-circle-fill", "careful", _("unfinished")], made("div", {}, made("bdi", {}, name)), started,
    made("div", { className: "small text-body-secondary num" }, said),
    made("div", { className: "d-flex flex-wrap gap-2 mt-2" },
      (known || isWhole) && button(goOn, () => document.dispatchEvent(new CustomEvent("go-on", { detail: { upload, isWhole } })), `${goOn} ${name}`),
      button(_("Delete"), () => remove(upload).then(refresh, refresh), `${_("Delete")} ${name}`)));
}

function showUploads(uploads) {
  forgetOthers(uploads.map(({ upload }) => `/uploads/${upload}`));
  if (hasOthers([uploads, isRunning]) && !isRunning) byId("uploads").replaceChildren(...uploads.map(uploadItem));
}

function showEmpty() {
  const wanted = open === "key" ? "tasks-closed" : tasks ? !tasks.length && "no-tasks"
    : open === "no" ? "tasks-failed" : "tasks-loading";
  for (const id of EMPTY) byId(id).hidden = id !== wanted;
  byId("tasks").hidden = byId("uploads").hidden = open === "key";
}

// An item that says the same is the same, so that nobody loses what they read or are about to press.
function itemOf(task) {
  const says = JSON.stringify([{ ...task, now: null }, stored.has(nameOf(task))]);
  const known = items.get(task.task_uuid);
  return known?.says === says ? known : { says, element: taskItem(task) };
}

function showTasks() {
  showEmpty();
  if (!tasks) return;
  const shown = tasks.slice(0, SHOWN_TASKS);
  const now = new Map(shown.map(task => [task.task_uuid, itemOf(task)]));
  const elements = [...now.values()].map(({ element }) => element);
  [...byId("tasks").children].filter(element => !elements.includes(element)).forEach(element => element.remove());
  elements.forEach((element, at) => byId("tasks").children[at] === element || byId("tasks").insertBefore(element, byId("tasks").children[at] ?? null));
  items = now;
  for (const task of shown.filter(each => each.state === "running")) showProgress(items.get(task.task_uuid), task);
  byId("running-count").textContent = tasks.filter(task => task.state === "running").length || "";
}

document.addEventListener("running", event => {
  isRunning = event.detail;
  if (isRunning) byId("uploads").replaceChildren();
});
on("open", found => {
  open = found;
  showEmpty();
});
on("models", models => stored = new Map(models.map(facts => [facts.model, facts])));
on("tasks", found => {
  tasks = found;
  showTasks();
});
on("uploads", showUploads);
