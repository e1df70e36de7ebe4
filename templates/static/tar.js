// What a tar holds, from its headers alone: POSIX.1-2001 (ustar, pax), and GNU tar's long names and
// large sizes.

const BLOCK = 512, MOST_ENTRIES = 10_000, MOST_BYTES = 2 ** 20;
const FILES = ["0", "\0", "7"], PAX = "x", LONG_NAME = "L";
const decoder = new TextDecoder();

async function bytes(file, start, count) {
  return new Uint8Array(await file.slice(start, start + count).arrayBuffer());
}

function textOf(block, at = 0, size = block.length) {
  const field = block.subarray(at, at + size), end = field.indexOf(0);
  return decoder.decode(end < 0 ? field : field.subarray(0, end));
}

// Octal digits, or, where they don't suffice, the number itself, its first bit being set.
function numberOf(block, at, size) {
  if (!(block[at] & 0x80)) return parseInt(textOf(block, at, size), 8) || 0;
  return block.subarray(at + 1, at + size).reduce((number, byte) => number * 256 + byte, block[at] & 0x7f);
}

// Its checksum is of the block with spaces in the checksum's own place.
function isHeader(block) {
  const sum = block.reduce((total, byte, at) => total + (at >= 148 && at < 156 ? 32 : byte), 0);
  return block.length === BLOCK && sum === numberOf(block, 148, 8);
}

function nameOf(block) {
  const isPosix = textOf(block, 257, 6) === "ustar" && block[262] === 0;
  return [isPosix && textOf(block, 345, 155), textOf(block, 0, 100)].filter(Boolean).join("/");
}

// The records of a pax header, each "<its own length> <key>=<value>\n".
function recordsOf(content) {
  const found = {};
  for (let at = 0; at < content.length;) {
    const length = parseInt(textOf(content, at, 20), 10);
    if (!(length > 0)) break;
    const [, key, value] = /^\d+ ([^=]*)=([^]*)\n$/.exec(textOf(content, at, length)) ?? [];
    if (key === "path") found.name = value;
    if (key === "size") found.size = Number(value);
    at += length;
  }
  return found;
}

// The files in it as {name, size, start(count)}, or null for what isn't a whole tar.
export async function tarListing(file) {
  const entries = [];
  let known = {};
  for (let at = 0; entries.length < MOST_ENTRIES;) {
    const block = await bytes(file, at, BLOCK);
    if (block.length === BLOCK && block.every(byte => byte === 0)) break;
    if (!isHeader(block)) return null;
    const kind = String.fromCharCode(block[156]), own = numberOf(block, 124, 12);
    const isMore = kind === PAX || kind === LONG_NAME;
    const size = isMore ? own : known.size ?? own, start = at + BLOCK;
    if (start + size > file.size) return null;
    if (isMore) {
      const content = await bytes(file, start, Math.min(size, MOST_BYTES));
      known = { ...known, ...kind === PAX ? recordsOf(content) : { name: textOf(content) } };
    } else {
      const name = (known.name ?? nameOf(block)).replace(/^(\.\/)+/, "");
      if (FILES.includes(kind) && !name.endsWith("/")) {
        entries.push({ name, size, start: count => bytes(file, start, Math.min(count, size)) });
      }
      known = {};
    }
    at = start + Math.ceil(size / BLOCK) * BLOCK;
  }
  return entries;
}
