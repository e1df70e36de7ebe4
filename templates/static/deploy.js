// The form: a zip is chosen or dropped, looked into, and deployed.

import { DEPLOY_PHASES, run } from "./activity.js";
import { byId } from "./dom.js";
import { listing } from "./listing.js";
import { _, inName, inUnits } from "./text.js";

const SHOWN_NAMES = 8;
const ZIP = /\.zip$/i;
const EXTENSION = /\.(zip|tar|tar\.gz|tgz|tar\.zst|gguf)$/i;
const form = byId("deploy");
let suggested = "";

function problemWith(entries, names) {
  if (!entries) return _("This isn't a zip, or not a whole one.");
  if (entries.some(entry => entry.encrypted)) return _("It is encrypted. Zip it without a password.");
  const hasModel = names.some(name => /\.(gguf|safetensors)$/i.test(name));
  return hasModel ? "" : _("It holds no .gguf and no .safetensors file.");
}

async function look(file) {
  if (!ZIP.test(file.name)) {
    byId("listing").textContent = inUnits(file.size);
    return;
  }
  const entries = await listing(file);
  const names = (entries ?? []).map(entry => entry.name).filter(name => !name.endsWith("/"));
  const problem = problemWith(entries, names);
  const more = names.length > SHOWN_NAMES ? ", …" : "";
  const held = _("It holds (%(size)s): %(names)s", {
    size: inUnits(file.size), names: names.slice(0, SHOWN_NAMES).join(", ") + more,
  });
  byId("listing").textContent = problem || held;
  byId("listing").classList.toggle("text-danger", Boolean(problem));
  byId("zip").setCustomValidity(problem);
}

// A name that somebody typed stays; one that came from a file's name follows the file.
function suggest(file) {
  if (byId("name").value !== suggested) return;
  suggested = byId("name").value = inName(file.name.replace(EXTENSION, ""));
}

function choose() {
  const [file] = byId("zip").files;
  byId("listing").textContent = "";
  byId("zip").setCustomValidity("");
  if (!file) return;
  suggest(file);
  look(file);
}

function deploy() {
  const fields = new FormData(form);
  for (const [name, value] of [...fields]) if (value === "") fields.delete(name);
  run("POST", "/models/deploy/", fields, byId("name").value, DEPLOY_PHASES);
}

function highlight(event, isOver) {
  event.preventDefault();
  document.body.classList.toggle("dropping", isOver);
}

form.addEventListener("submit", event => {
  event.preventDefault();
  deploy();
});
byId("zip").addEventListener("change", choose);
document.addEventListener("dragover", event => highlight(event, true));
document.addEventListener("dragleave", event => event.relatedTarget || highlight(event, false));
document.addEventListener("drop", event => {
  highlight(event, false);
  if (!event.dataTransfer.files.length) return;
  byId("zip").files = event.dataTransfer.files;
  choose();
});
