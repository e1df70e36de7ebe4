// The form: what is chosen or dropped, what it is, what will become of it, and its name.

import { deploy } from "./activity.js";
import { bundle, dropped, inputFiles } from "./bundle.js";
import { inDays } from "./dates.js";
import { byId, icon, made } from "./dom.js";
import { on } from "./feed.js";
import { headsOf } from "./heads.js";
import { chosenServer, foundOnOllama, hasSeveralServers, shortAddress } from "./ollama.js";
import { ask } from "./service.js";
import { _, EXTENSION, inName, inShort, inUnits, ngettext, wantsBase } from "./text.js";
import { adopt, Refused, unfinished } from "./upload.js";

const SHOWN_NAMES = 6, TYPING_MS = 300;
const UNREACHABLE = [502, 504];
const form = byId("deploy");
let chosen = null;
let plan = null;
let suggested = "";
let asking = null;
let timer = 0;

// The optional fields that aren't empty, as the API takes them.
function options() {
  const fields = Object.fromEntries([...new FormData(form)]
    .filter(([name, value]) => typeof value === "string" && value !== "" && name !== "model_name_on_ollama"));
  if (!byId("prove").checked) fields.verify = false;
  return fields;
}

function problemWith({ name, entries }) {
  if (!entries) return /\.tar$/i.test(name) ? _("This isn't a tar, or not a whole one.") : _("This isn't a zip, or not a whole one.");
  if (entries.some(entry => entry.encrypted)) return _("It is encrypted. Zip it without a password.");
  const hasModel = entries.some(({ name }) => /\.(gguf|safetensors)$/i.test(name));
  return hasModel || !entries.length ? "" : _("It holds no .gguf and no .safetensors file.");
}

// What the service would make of it. Rejects with Refused for what it would refuse.
async function asked({ files }, signal) {
  const body = files && await headsOf(files, options());
  if (!body) return null;
  const server = chosenServer();
  const answer = await ask(`/models/preview/${server ? `?server=${encodeURIComponent(server)}` : ""}`, {
    method: "POST", body, signal, headers: { "Content-Type": "application/octet-stream" },
  });
  const said = await answer.json();
  if (answer.ok) return said;
  throw new Refused(answer.status, said.message.details);
}

function whatItIs({ kind, architecture, parameter_count: count, quantization, base }) {
  const main = [architecture, count && inShort(count)].filter(Boolean).join(" ");
  const hasBase = kind.includes("base"), hasAdapter = kind.includes("adapter");
  const values = { main, type: quantization ?? "safetensors", base: base ?? "" };
  if (hasBase && hasAdapter) return _("%(main)s (%(type)s) and a LoRA adapter", values);
  if (hasBase) return _("%(main)s (%(type)s)", values);
  return base ? _("LoRA adapter for %(base)s", values) : architecture ? _("LoRA adapter for %(base)s", { base: architecture })
    : _("LoRA adapter without its base");
}

const HAPPENS = {
  "": () => _("It goes to Ollama as it is"),
  merge: () => _("The adapter is merged into its base"),
  convert: () => _("It is converted to GGUF"),
  quantize: type => _("It is quantised to %(type)s", { type }),
  "merge convert": () => _("The adapter is merged into its base, and that is converted to GGUF"),
  "merge quantize": type => _("The adapter is merged into its base, and that is quantised to %(type)s", { type }),
  "convert quantize": type => _("It is converted to GGUF and quantised to %(type)s", { type }),
  "merge convert quantize": type =>
    _("The adapter is merged into its base, and that is converted to GGUF and quantised to %(type)s", { type }),
};

function whatHappens({ kind }, { steps, quantize, bytes, error }) {
  if (error) return error;
  const isAdapterSent = kind.includes("adapter") && !steps.includes("merge");
  const happens = isAdapterSent && !steps.length ? _("Ollama puts the adapter on its base") : HAPPENS[steps.join(" ")](quantize);
  return bytes ? _("%(happens)s: about %(size)s on Ollama.", { happens, size: inUnits(bytes) }) : `${happens}.`;
}

function becomes(found) {
  const said = new Map();
  for (const server of found.servers) {
    const text = whatHappens(found, server);
    said.set(text, [...said.get(text) ?? [], shortAddress(server.server)]);
  }
  const each = [...said].map(([text, servers]) => said.size > 1 ? `${servers.join(", ")}: ${text}` : text);
  const problems = [...new Set(found.servers.flatMap(server => server.problems ?? []))];
  byId("becomes").replaceChildren(...each.map(text => made("div", {}, icon("arrow-return-right", "text-primary"), ` ${text}`)),
    ...problems.map(text => made("div", { className: "text-body-secondary" }, icon("info-circle"), ` ${text}`)));
}

function showProblem(text) {
  byId("problem").textContent = text;
}

function chooseBase() {
  byId("options").open = true;
  byId("from").scrollIntoView({ block: "center" });
  byId("from").focus();
}

async function look() {
  asking?.abort();
  asking = new AbortController();
  const bundled = chosen;
  byId("choose-base").hidden = true;
  showProblem("");
  try {
    plan = await asked(bundled, asking.signal);
    if (bundled !== chosen) return;
    byId("what").textContent = plan ? whatItIs(plan) : "";
    if (plan) becomes(plan);
    else byId("becomes").textContent = bundled.blob ? _("What is in it is seen once it has arrived.") : "";
  } catch (error) {
    if (error.name === "AbortError" || bundled !== chosen) return;
    plan = null;
    byId("becomes").replaceChildren();
    if (error instanceof Refused && error.status !== 401) {
      showProblem(error.message);
      byId("choose-base").hidden = !wantsBase(error.message);
    }
  }
}

function lookSoon() {
  clearTimeout(timer);
  if (chosen && !problemWith(chosen)) timer = setTimeout(look, TYPING_MS);
}

function showFile({ name, size, entries, isOne }) {
  byId("drop").hidden = true;
  byId("file").hidden = false;
  byId("zip").required = false;
  byId("file-name").textContent = name;
  const names = (entries ?? []).map(entry => entry.name);
  const shown = names.slice(0, SHOWN_NAMES).join(", ");
  const more = names.length > SHOWN_NAMES ? ngettext(" and one more", " and %(num)d more", names.length - SHOWN_NAMES) : "";
  byId("listing").textContent = [inUnits(size), names.join() !== name && shown + more].filter(Boolean).join(" · ");
  byId("what").textContent = "";
  byId("becomes").replaceChildren();
  const kind = /\.(gguf|safetensors)$/i.test(name) ? "file-earmark-binary" : isOne ? "file-zip" : "folder2-open";
  byId("file-icon").replaceChildren(icon(kind));
}

// A name that somebody typed stays; one that came from a file's name follows the file.
function suggest({ name, key }) {
  if (byId("name").value !== suggested) return;
  const known = unfinished().find(upload => upload.key === key);
  suggested = byId("name").value = known?.as ?? inName(name.replace(EXTENSION, ""));
  showName();
}

function showName() {
  const field = byId("name"), said = byId("name-said");
  const isWrong = field.value !== "" && !field.checkValidity();
  field.classList.toggle("is-invalid", isWrong);
  said.classList.toggle("error", isWrong);
  const found = !isWrong && field.value && foundOnOllama(field.value);
  said.replaceChildren(...found ? [icon("arrow-repeat"), " ", found.modified_at
    ? _("replaces %(name)s of %(date)s", { name: found.name, date: inDays(found.modified_at) })
    : _("replaces %(name)s", { name: found.name })] : [said.dataset.rule]);
  said.hidden = Boolean(field.value && !isWrong && !found);
}

function choose(bundled) {
  chosen = bundled;
  plan = null;
  showFile(bundled);
  suggest(bundled);
  const problem = problemWith(bundled);
  showProblem(problem);
  if (!problem) look();
}

function clear() {
  chosen = plan = null;
  asking?.abort();
  byId("zip").value = byId("folder").value = "";
  byId("zip").required = true;
  byId("drop").hidden = false;
  byId("file").hidden = true;
  if (byId("name").value === suggested) suggested = byId("name").value = "";
  showName();
  byId("zip").focus();
}

async function take(files) {
  if (files.length) choose(await bundle(files));
}

function phasesOf(found) {
  const steps = (found?.servers ?? []).flatMap(server => server.steps ?? []);
  return ["upload", ...steps.length ? ["convert"] : [], "push", "create", ...byId("prove").checked ? ["verify"] : []];
}

async function refuseEarly(bundled, signal) {
  if (bundled.files) await asked(bundled, signal);
  else if (!hasSeveralServers()) await reachable(signal);
}

// Where nothing is known of the files, at least Ollama has to be there.
async function reachable(signal) {
  const answer = await ask("/readyz", { signal });
  if (answer.ok) return;
  const { checks = {} } = await answer.json();
  const error = Object.values(checks).find(check => !check.ok)?.error;
  if (error) throw new Refused(UNREACHABLE[0], { error });
}

function submit(event) {
  event.preventDefault();
  if (!chosen || problemWith(chosen)) return byId("problem").scrollIntoView({ block: "nearest" });
  const bundled = chosen;
  const fields = { ...options(), model_name_on_ollama: byId("name").value };
  deploy(bundled, fields, phasesOf(plan), signal => refuseEarly(bundled, signal));
}

function highlight(event, isOver) {
  event.preventDefault();
  document.body.classList.toggle("dropping", isOver);
}

// An upload that this browser has begun: where it is whole, it needs no file any more.
function goOn({ upload, isWhole }) {
  byId("deploy-place").scrollIntoView();
  suggested = byId("name").value;
  if (isWhole) {
    adopt(upload);
    return choose({ ...upload, blob: null, files: null, entries: [], isOne: true });
  }
  clear();
  byId("zip").click();
}

form.addEventListener("submit", submit);
form.addEventListener("change", event => event.target.type === "file" || event.target.id === "name" || lookSoon());
for (const input of [byId("zip"), byId("folder")]) {
  input.addEventListener("change", () => take(inputFiles(input.files)));
}
byId("choose-folder").addEventListener("click", () => byId("folder").click());
byId("clear").addEventListener("click", clear);
byId("name").addEventListener("input", showName);
byId("choose-base").addEventListener("click", chooseBase);
byId("quantize").addEventListener("change", lookSoon);
document.addEventListener("choose-base", chooseBase);
document.addEventListener("choose-file", clear);
document.addEventListener("go-on", event => goOn(event.detail));
document.addEventListener("dragover", event => highlight(event, true));
document.addEventListener("dragleave", event => event.relatedTarget || highlight(event, false));
document.addEventListener("drop", async event => {
  highlight(event, false);
  take(await dropped(event.dataTransfer));
});
on("servers", showName);
