// What a zip holds, from its last bytes alone (PKWARE's APPNOTE.TXT, 4.3.12 to 4.3.16).

const END_BYTES = 22 + 65535;
const END_MARK = 0x06054b50, END64_MARK = 0x06064b50, LOCATOR64_MARK = 0x07064b50;
const CENTRAL_MARK = 0x02014b50;

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

// The entries as {name, encrypted}, or null for what isn't a whole zip.
export async function listing(file) {
  const place = await directory(file);
  if (!place || place.offset + place.size > file.size) return null;
  const records = await view(file, place.offset, place.offset + place.size);
  const entries = [];
  for (let at = 0; at + 46 <= records.byteLength;) {
    if (records.getUint32(at, true) !== CENTRAL_MARK) return null;
    const nameSize = records.getUint16(at + 28, true);
    if (at + 46 + nameSize > records.byteLength) return null;
    const name = new TextDecoder().decode(new Uint8Array(records.buffer, at + 46, nameSize));
    entries.push({ name, encrypted: Boolean(records.getUint16(at + 8, true) & 1) });
    at += 46 + nameSize + records.getUint16(at + 30, true) + records.getUint16(at + 32, true);
  }
  return entries;
}
