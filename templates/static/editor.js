// A Modelfile in a text field: with its lines' numbers, the line of an error, and what has changed.

import { diff } from "./diff.js";
import { byId, made } from "./dom.js";
import { _ } from "./text.js";

const field = byId("modelfile");
const SIGNS = { "+": "ins", "-": "del", " ": "div", "…": "div" };
let original = "";
let count = 0;
let marked = 0;

function heightOfLine() {
  return parseFloat(getComputedStyle(field).lineHeight);
}

function place() {
  byId("modelfile-lines").style.translate = `0 ${-field.scrollTop}px`;
  const padding = parseFloat(getComputedStyle(field).paddingTop);
  const mark = byId("modelfile-mark").style;
  mark.height = `${heightOfLine()}px`;
  mark.top = `${padding + (marked - 1) * heightOfLine() - field.scrollTop}px`;
}

function number() {
  const lines = field.value.split("\n").length;
  if (lines === count) return;
  count = lines;
  byId("modelfile-lines").textContent = Array.from({ length: lines }, (_, at) => at + 1).join("\n");
}

export function changes() {
  return field.value !== original;
}

function showChanges(isShown) {
  byId("show-changes").setAttribute("aria-pressed", isShown);
  byId("show-changes").classList.toggle("active", isShown);
  byId("modelfile-editor").hidden = isShown;
  byId("modelfile-changes").hidden = !isShown;
  if (!isShown) return;
  const lines = diff(original, field.value).map(([sign, line]) => made(SIGNS[sign], {}, `${sign} ${line}`));
  byId("modelfile-changes").replaceChildren(...lines.length ? lines : [made("div", {}, _("Nothing has been changed."))]);
}

// Marks a line, the first being 1, and brings it into view; 0 for none.
export function mark(line) {
  marked = line;
  byId("modelfile-mark").hidden = !line;
  field.setAttribute("aria-invalid", Boolean(line));
  if (line) {
    showChanges(false);
    const top = (line - 1) * heightOfLine();
    if (top < field.scrollTop || top > field.scrollTop + field.clientHeight - 2 * heightOfLine()) {
      field.scrollTop = top - field.clientHeight / 2;
    }
  }
  place();
}

// Shows a text to be edited, and which one it is to be compared with.
export function edit(text, comparedWith = text) {
  original = comparedWith;
  field.value = text;
  field.scrollTop = 0;
  number();
  mark(0);
  showChanges(false);
}

export function reset() {
  edit(original);
}

field.addEventListener("scroll", place);
field.addEventListener("input", number);
byId("show-changes").addEventListener("click", () => showChanges(byId("modelfile-changes").hidden));
