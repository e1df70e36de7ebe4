// An upload that can be gone on with: tus 1.0.0 (https://tus.io/protocols/resumable-upload). Which
// upload a file has become stays in this browser, so that choosing the file again goes on with it.

import { ask, base, open } from "./service.js";
import { _ } from "./text.js";

const VERSION = { "Tus-Resumable": "1.0.0" };
const WAITS_MS = [500, 1000, 2000, 5000, 10_000];
const YOUNG_MS = 60_000;
const PREFIX = `${base}upload `;
const LOST = _("The connection is lost. It goes on as soon as it is back.");
const PASSING = [408, 409, 423, 429, 502, 503, 504], OF_NO_USE = [400, 404, 413, 415, 422];
const LOCKED = 423, LOCKED_MS = 300, ATTEMPTS = 20;

export class Refused extends Error {
  constructor(status, details) {
    super([details.error, details.hint].filter(Boolean).join(" "));
    this.status = status;
    this.hint = details.hint;
  }
}

class Paused extends Error {}

async function refusalOf(status, body) {
  try {
    return new Refused(status, JSON.parse(body.trim().split("\n").at(-1)).message.details);
  } catch {
    return new Refused(status, { error: `HTTP ${status}` });
  }
}

async function request(method, path, headers = {}, signal = undefined) {
  const answer = await ask(path, { method, signal, headers: { ...VERSION, ...headers } });
  if (!answer.ok) throw await refusalOf(answer.status, await answer.text());
  return answer;
}

// The uploads that this browser has begun and knows no end of: {key, path, name, size,
// as, at}, `as` being the name on Ollama.
export function unfinished() {
  return Object.keys(localStorage).filter(key => key.startsWith(PREFIX)).flatMap(key => {
    try {
      return [{ key: key.slice(PREFIX.length), ...JSON.parse(localStorage.getItem(key)) }];
    } catch {
      return [];
    }
  });
}

const remember = (key, value) => localStorage.setItem(PREFIX + key, JSON.stringify(value));
export const adopt = ({ key, ...upload }) => remember(key, { ...upload, at: Date.now() });
export const forget = key => localStorage.removeItem(PREFIX + key);

// Forgets those that the service has no longer; `paths` are what it has.
export function forgetOthers(paths) {
  const old = Date.now() - YOUNG_MS;
  for (const { key, path, at } of unfinished()) if (at < old && !paths.includes(path)) forget(key);
}

// How many of an upload's bytes are there, or null where it is gone.
async function offsetOf(path) {
  try {
    const answer = await request("HEAD", path);
    return Number(answer.headers.get("Upload-Offset"));
  } catch (error) {
    if (error instanceof Refused && [404, 410].includes(error.status)) return null;
    throw error;
  }
}

// The request that was just given up may hold the upload for another moment.
export async function remove({ key, path }, attempts = ATTEMPTS) {
  try {
    await request("DELETE", path);
  } catch (error) {
    if (error.status === LOCKED && attempts) {
      await new Promise(resolve => setTimeout(resolve, LOCKED_MS));
      return remove({ key, path }, attempts - 1);
    }
    if (error.status !== 404) throw error;
  }
  forget(key);
}

const base64 = text => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

async function begin({ key, name, size, as }) {
  const answer = await request("POST", "/uploads/", {
    "Upload-Length": size, "Upload-Metadata": `filename ${base64(name)}`,
  });
  const path = `/uploads/${answer.headers.get("Location").split("/").at(-1)}`;
  remember(key, { path, name, size, as, at: Date.now() });
  return { path, offset: 0 };
}

// Goes on with an upload's bytes until all are there. `report({sent, size})` hears how far it is,
// `report({waiting})` why it doesn't go on just now. Rejects with Refused for what the service won't
// take. pause() and resume() at any time; cancel() ends it and removes what has arrived.
export class Upload {
  constructor(bundle, report) {
    Object.assign(this, { bundle, report, path: null, isPaused: false, isOver: false, wake: () => {} });
  }

  async run() {
    for (let failures = 0; ;) {
      if (this.isPaused) await new Promise(resolve => this.wake = resolve);
      if (this.isOver) throw new DOMException("", "AbortError");
      try {
        const offset = await this.find();
        if (offset === this.bundle.size) return this.path;
        this.report({ sent: offset, size: this.bundle.size, from: offset });
        failures = 0;
        await this.send(offset);
      } catch (error) {
        if (this.isOver || error instanceof Paused) continue;
        if (error instanceof Refused && !PASSING.includes(error.status)) {
          if (OF_NO_USE.includes(error.status)) forget(this.bundle.key);
          throw error;
        }
        this.report({ waiting: error instanceof Refused ? error.message : LOST });
        await this.wait(WAITS_MS[Math.min(failures++, WAITS_MS.length - 1)]);
      }
    }
  }

  // Where it goes on: with the upload that this browser knows, or a new one.
  async find() {
    const known = unfinished().find(({ key }) => key === this.bundle.key);
    const found = known ? await offsetOf(known.path) : null;
    if (found === null && known) forget(known.key);
    const { path, offset } = found === null ? await begin(this.bundle) : { path: known.path, offset: found };
    this.path = path;
    return offset;
  }

  send(offset) {
    if (!this.bundle.blob) throw new Refused(404, { error: _("The upload has expired. Choose the file again.") });
    return new Promise((resolve, reject) => {
      const sending = this.sending = open("PATCH", this.path);
      const headers = { ...VERSION, "Upload-Offset": offset, "Content-Type": "application/offset+octet-stream" };
      for (const [name, value] of Object.entries(headers)) sending.setRequestHeader(name, value);
      sending.upload.onprogress = ({ loaded }) =>
        this.report({ sent: offset + loaded, size: this.bundle.size, from: offset });
      sending.onload = async () => sending.status < 300 ? resolve()
        : reject(await refusalOf(sending.status, sending.responseText));
      sending.onerror = () => reject(new TypeError());
      sending.onabort = () => reject(new Paused());
      sending.send(this.bundle.blob.slice(offset));
    });
  }

  wait(milliseconds) {
    return new Promise(resolve => {
      this.wake = resolve;
      setTimeout(resolve, milliseconds);
      addEventListener("online", resolve, { once: true });
    });
  }

  pause() {
    this.isPaused = true;
    this.sending?.abort();
  }

  resume() {
    this.isPaused = false;
    this.wake();
  }

  async cancel() {
    this.isOver = true;
    this.sending?.abort();
    this.resume();
    for (const known of unfinished().filter(({ key }) => key === this.bundle.key)) await remove(known);
  }
}
