// What a zip holds, from its last bytes alone (PKWARE's APPNOTE.TXT, 4.3.7 to 4.3.16).

const END_BYTES = 22 + 65535, MOST_BYTES = 64 * 2 ** 20, MOST_ENTRIES = 10_000;
const END_MARK = 0x06054b50, END64_MARK = 0x06064b50, LOCATOR64_MARK = 0x07064b50;
const CENTRAL_MARK = 0x02014b50, WIDE = 0xffffffff, WIDE_FIELDS = 1, DEFLATED = 8;

async function view(file, start, end) {
  return new DataView(await file.slice(start, end).arrayBuffer());
}

// The directory's place in the file, or null where there is none.
async function directory(file) {
  const start = Math.max(0, file.size - END_BYTES);
  const tail = await view(file, start);
  for (let at = tail.byteLength - 22; at >= 0; at--) {
    if (tail.getUint32(at, true) !== END_MARK) continue;
    const place = { size: tail.getUint32(at + 12, true), offset: tail.getUint32(at + 16, true) };
    if (at < 20 || tail.getUint32(at - 20, true) !== LOCATOR64_MARK) return place;
    const wideAt = Number(tail.getBigUint64(at - 12, true));
    const wide = await view(file, wideAt, wideAt + 56);
    if (wide.byteLength < 56 || wide.getUint32(0, true) !== END64_MARK) return null;
    return { size: Number(wide.getBigUint64(40, true)), offset: Number(wide.getBigUint64(48, true)) };
  }
  return null;
}

// Those of an entry's numbers that need 64 bits are in an extra field, in this order.
function widened(numbers, extra) {
  for (let at = 0; at + 4 <= extra.byteLength; at += 4 + extra.getUint16(at + 2, true)) {
    if (extra.getUint16(at, true) !== WIDE_FIELDS) continue;
    let field = at + 4;
    return numbers.map(number => {
      if (number !== WIDE || field + 8 > extra.byteLength) return number;
      field += 8;
      return Number(extra.getBigUint64(field - 8, true));
    });
  }
  return numbers;
}

// The first bytes of an entry, at least `count` of them where it has as many.
async function beginning(file, { offset, packed, method }, count) {
  const local = await view(file, offset, offset + 30);
  const start = offset + 30 + local.getUint16(26, true) + local.getUint16(28, true);
  if (method !== DEFLATED) return new Uint8Array(await file.slice(start, start + count).arrayBuffer());
  const bytes = new Uint8Array(count);
  let filled = 0;
  const reader = file.slice(start, start + packed).stream()
    .pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  while (filled < count) {
    const { done, value } = await reader.read();
    if (done) break;
    bytes.set(value.subarray(0, count - filled), filled);
    filled += Math.min(value.length, count - filled);
  }
  reader.cancel().catch(() => {});
  return bytes.subarray(0, filled);
}

// The files in it as {name, size, encrypted, start(count)}, or null for what isn't a whole zip.
export async function listing(file) {
  const place = await directory(file);
  if (!place || place.offset + place.size > file.size || place.size > MOST_BYTES) return null;
  const records = await view(file, place.offset, place.offset + place.size);
  const entries = [];
  for (let at = 0; at + 46 <= records.byteLength && entries.length < MOST_ENTRIES;) {
    if (records.getUint32(at, true) !== CENTRAL_MARK) return null;
    const nameSize = records.getUint16(at + 28, true), extraSize = records.getUint16(at + 30, true);
    const end = at + 46 + nameSize + extraSize;
    if (end > records.byteLength) return null;
    const name = new TextDecoder().decode(new Uint8Array(records.buffer, at + 46, nameSize));
    const extra = new DataView(records.buffer, at + 46 + nameSize, extraSize);
    const [size, packed, offset] = widened(
      [24, 20, 42].map(field => records.getUint32(at + field, true)), extra);
    const entry = { offset, packed, method: records.getUint16(at + 10, true) };
    entries.push({
      name,
      size,
      encrypted: Boolean(records.getUint16(at + 8, true) & 1),
      start: count => beginning(file, entry, Math.min(count, size)),
    });
    at = end + records.getUint16(at + 32, true);
  }
  return entries.filter(({ name }) => !name.endsWith("/"));
}
