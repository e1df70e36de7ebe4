// What is to be sent: one file as it is, or several as a tar that is never made: its blob refers to
// the files, so that any part of it can be read again.

import { listing } from "./listing.js";
import { tarListing } from "./tar.js";

const BLOCK = 512;
const ARCHIVE = /\.(zip|tar|tar\.gz|tgz|tar\.zst)$/i;
const LISTINGS = { zip: listing, tar: tarListing };
const text = new TextEncoder();

function field(block, at, size, value) {
  block.set(text.encode(value).subarray(0, size), at);
}

// A tar header (POSIX.1-2001, pax and ustar).
function header(name, size, type) {
  const block = new Uint8Array(BLOCK);
  field(block, 0, 100, name);
  field(block, 100, 24, "0000644\0" + "0000000\0" + "0000000\0");
  field(block, 124, 24, size.toString(8).padStart(11, "0") + " " + "0".repeat(11) + " ");
  field(block, 148, 9, " ".repeat(8) + type);
  field(block, 257, 8, "ustar\x0000");
  const sum = block.reduce((total, byte) => total + byte, 0);
  field(block, 148, 8, sum.toString(8).padStart(6, "0") + "\0 ");
  return block;
}

const padding = size => new Uint8Array((BLOCK - size % BLOCK) % BLOCK);

// A pax record says its own length, in bytes and including the length itself.
function record(key, value) {
  const rest = ` ${key}=${value}\n`;
  let length = text.encode(rest).length;
  length += String(length + String(length).length).length;
  return `${length}${rest}`;
}

function member({ name, file }) {
  const more = text.encode(record("path", name) + record("size", file.size));
  const small = file.size < 8 ** 11 ? file.size : 0;
  return [
    header("pax", more.length, "x"), more, padding(more.length),
    header("file", small, "0"), file, padding(file.size),
  ];
}

function tar(files) {
  return new Blob([...files.flatMap(member), new Uint8Array(2 * BLOCK)]);
}

const asSource = ({ name, file }) => ({
  name,
  size: file.size,
  start: async count => new Uint8Array(await file.slice(0, count).arrayBuffer()),
});

// What several names have in common at their start, or the first one's own.
function commonName(names) {
  const folder = names[0].split("/")[0];
  if (names[0].includes("/") && names.every(name => name.startsWith(`${folder}/`))) return folder;
  return names[0].split("/").at(-1).replace(/\.\w+$/, "");
}

// {name, blob, size, files, entries, key, isOne}: `files` is null where only the service can look inside,
// `entries` is null for a zip or a tar that isn't one; `isOne` file is what was chosen.
export async function bundle(chosen) {
  const files = chosen.map(({ name, file }) => ({ name, file })).sort((a, b) => a.name < b.name ? -1 : 1);
  const [{ name, file }] = files;
  const key = JSON.stringify(files.map(each => [each.name, each.file.size, each.file.lastModified]));
  if (files.length > 1) {
    const blob = tar(files);
    const sources = files.map(asSource);
    return { name: `${commonName(files.map(each => each.name))}.tar`, blob, size: blob.size, files: sources, entries: sources, key };
  }
  const list = LISTINGS[/\.(zip|tar)$/i.exec(name)?.[1].toLowerCase()];
  const sources = list ? await list(file) : ARCHIVE.test(name) ? null : [asSource(files[0])];
  const entries = list ? sources : sources ?? [];
  return { name, blob: file, size: file.size, files: sources, entries, key, isOne: true };
}

async function filesBelow(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ name: entry.fullPath.replace(/^\//, ""), file }];
  }
  const found = [];
  const reader = entry.createReader();
  for (;;) {
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return found;
    for (const each of entries) found.push(...await filesBelow(each));
  }
}

const isVisible = ({ name }) => !/(^|\/)\./.test(name);

// The files that were dropped, and those in folders that were.
export async function dropped(transfer) {
  const entries = [...transfer.items].map(item => item.webkitGetAsEntry?.());
  if (entries.every(entry => !entry?.isDirectory)) return inputFiles(transfer.files);
  return (await Promise.all(entries.filter(Boolean).map(filesBelow))).flat().filter(isVisible);
}

export function inputFiles(files) {
  const named = [...files].map(file => ({ name: file.webkitRelativePath || file.name, file }));
  return named.length > 1 ? named.filter(isVisible) : named;
}
