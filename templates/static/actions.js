// What the service does, in the page's words: its own are English, and fixed by its contract.

import { _ } from "./text.js";

const ACTIONS = {
  "Start save model.": _("Saving."),
  "Started save model.": _("Saving."),
  "Start extract model.": _("Unpacking."),
  "Start extracted model.": _("Unpacking."),
  "Success upload model file.": _("The model is stored here."),
  "Start create model.": _("Preparing."),
  "Started to create model.": _("Preparing."),
  "Start structure template": _("Creating."),
  "Success create model": _("Made on Ollama."),
  "Hashing.": _("Hashing."),
  "Merging.": _("Merging."),
  "Converting.": _("Converting."),
  "Converted.": _("Converted."),
  "Pushing.": _("Pushing."),
  "Verifying.": _("Verifying."),
  "Verified.": _("Verified."),
  "Made on one server.": _("One server has it."),
  "Failed on one server.": _("It failed on one server."),
  "Still working.": _("Still working."),
  "Start delete model.": _("Deleting."),
  "Success delete model.": _("Deleted here."),
};

export const inWords = action => ACTIONS[action] ?? (action.startsWith("Ollama: ") ? _("Creating.") : action);
