// A stored model to Ollama: under which name, on which base, with which Modelfile. What was typed
// stays in this tab until it has been taken.

import { CREATE_PHASES, run } from "./activity.js";
import { inDays } from "./dates.js";
import { byId } from "./dom.js";
import { changes, edit, mark, reset } from "./editor.js";
import { pathOf } from "./model.js";
import { serverUrls, whereOnOllama } from "./places.js";
import { ask, askJson, base } from "./service.js";
import { _, inName } from "./text.js";

const CHECK_MS = 500;
const dialog = byId("create-dialog");
let facts = null;
let served = "";
let earlier = {};
let asked = 0;
let waiting = 0;

const draftOf = model => `${base}modelfile of ${model}`;
const from = () => byId("base-choice").hidden ? "" : byId("new-from").value;

function say({ error, hint, line } = {}) {
  byId("modelfile-said").textContent = [error, hint].filter(Boolean).join(" ");
  mark(line ?? 0);
}

function sayDraft(text) {
  byId("draft-said").textContent = text;
}

function sayName() {
  const name = byId("new-name").value;
  const [there] = name ? whereOnOllama(name).places : [];
  const date = there?.model.modified_at;
  byId("new-name-said").textContent = there
    ? _("Replaces %(model)s of %(date)s.", { model: there.model.name, date: date ? inDays(date) : "?" })
    : _("New on Ollama.");
  byId("new-name-said").hidden = !name;
}

function edited() {
  return changes() ? byId("modelfile").value : "";
}

function fields() {
  const { system, template, parameters, license, modelfile_template: family, ...others } = earlier;
  const said = edited() ? {} : { system, template, parameters, license, modelfile_template: family };
  return { ...others, ...said, ...server(), from: from(), quantize: byId("new-quantize").value, modelfile: edited() };
}

// Where to, of several servers; the form's choice above isn't this one's.
function server() {
  const urls = serverUrls();
  return urls.length > 1 ? { server: byId("new-server").value || urls } : {};
}

function offerServers() {
  const urls = serverUrls(), [all] = byId("new-server").options;
  byId("new-server").replaceChildren(all, ...urls.map(url => new Option(new URL(url).host, url)));
  byId("new-server").value = "";
  byId("new-server-choice").hidden = urls.length < 2;
}

// What is wrong with it, if anything, before it is sent to be created.
async function problem() {
  const number = ++asked;
  const answer = await askJson(`${pathOf(facts.model)}/modelfile?verbose=1`, fields());
  const said = answer.ok ? {} : (await answer.json()).message.details;
  return number === asked ? said : null;
}

function checkSoon() {
  if (edited()) sessionStorage.setItem(draftOf(facts.model), edited());
  else sessionStorage.removeItem(draftOf(facts.model));
  sayDraft("");
  clearTimeout(waiting);
  waiting = setTimeout(async () => {
    const said = await problem().catch(() => null);
    if (said && dialog.open) say(said);
  }, CHECK_MS);
}

// What came of the last create, if it was with this very Modelfile.
async function fateOf(text) {
  const answer = await ask(`${pathOf(facts.model)}/?verbose=1`);
  const [last] = answer.ok ? (await answer.json()).creates : [];
  return last?.modelfile === text ? last : null;
}

// A draft that Ollama has taken is one no longer; what it has refused is said again.
async function resume(draft) {
  const fate = await fateOf(draft);
  if (fate?.state !== "succeeded") return load(draft, fate?.state === "failed" ? fate : null);
  sessionStorage.removeItem(draftOf(facts.model));
  return load(null);
}

async function load(text, fate = null) {
  const number = ++asked;
  say();
  const { system, template, parameters, license, modelfile_template: family } = earlier;
  const answer = await askJson(`${pathOf(facts.model)}/modelfile?verbose=1`,
    { from: from(), system, template, parameters, license, modelfile_template: family });
  const rendered = await answer.text();
  if (number !== asked) return;
  served = answer.ok ? rendered : "";
  edit(text || served, served);
  sayDraft(text && text !== served ? _("With your changes, which were kept.") : "");
  if (!answer.ok) say(JSON.parse(rendered).message.details);
  else if (fate) say(fate);
  else if (text) say(await problem() ?? {});
}

// Opens the dialog for a model, with the options and Modelfile of an earlier create where it is given.
export function create(model, again = null) {
  facts = model;
  earlier = { ...again?.options };
  byId("create-model").textContent = facts.model;
  byId("new-name").value = again?.model_name_on_ollama ?? facts.last_create?.model_name_on_ollama ?? inName(facts.model);
  byId("new-from").value = earlier.from ?? "";
  byId("new-quantize").value = earlier.quantize ?? "";
  byId("base-choice").hidden = Boolean(facts.kind?.includes("base"));
  offerServers();
  sayName();
  edit("");
  dialog.showModal();
  const draft = sessionStorage.getItem(draftOf(facts.model));
  const loading = again?.edited ? load(again.modelfile, again) : draft ? resume(draft) : load(null);
  loading.catch(() => say({ error: _("The connection was lost.") }));
}

function send() {
  const name = byId("new-name").value;
  const body = { verify: true, ...fields(), model: facts.model, model_name_on_ollama: name };
  run("POST", "/models/create/", body, name, CREATE_PHASES);
}

byId("create-form").addEventListener("submit", async event => {
  if (event.submitter?.value !== "yes") return;
  event.preventDefault();
  clearTimeout(waiting);
  let said;
  try {
    said = await problem();
  } catch {
    said = { error: _("The connection was lost.") };
  }
  if (!said) return;
  say(said);
  if (said.error) return;
  dialog.close("yes");
  send();
});
byId("reset-modelfile").addEventListener("click", () => {
  reset();
  checkSoon();
});
byId("modelfile").addEventListener("input", checkSoon);
byId("new-name").addEventListener("input", sayName);
byId("new-from").addEventListener("change", () => load(edited()));
