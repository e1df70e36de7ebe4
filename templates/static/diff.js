// What has changed between two texts, line by line.

const MOST_CELLS = 4e6;
const CONTEXT = 2;

// Lengths of the longest common subsequences of what is left of both from each pair of lines on.
function lengths(left, right) {
  const table = Array.from({ length: left.length + 1 }, () => new Uint32Array(right.length + 1));
  for (let i = left.length - 1; i >= 0; i--) {
    for (let j = right.length - 1; j >= 0; j--) {
      table[i][j] = left[i] === right[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    }
  }
  return table;
}

function changed(left, right) {
  const isSmall = left.length * right.length <= MOST_CELLS;
  const table = isSmall ? lengths(left, right) : null;
  const lines = [];
  let i = 0, j = 0;
  while (i < left.length || j < right.length) {
    if (isSmall && i < left.length && j < right.length && left[i] === right[j]) {
      lines.push([" ", left[i++]]);
      j++;
    } else if (i < left.length && (j === right.length || !isSmall || table[i + 1][j] >= table[i][j + 1])) {
      lines.push(["-", left[i++]]);
    } else {
      lines.push(["+", right[j++]]);
    }
  }
  return lines;
}

// [" " | "-" | "+", line] for each line that has changed and those around it; ["…", ""] for a gap.
export function diff(before, after) {
  const left = before.split("\n"), right = after.split("\n");
  let start = 0, end = 0;
  const least = Math.min(left.length, right.length);
  while (start < least && left[start] === right[start]) start++;
  while (end < least - start && left.at(-1 - end) === right.at(-1 - end)) end++;
  const all = [
    ...left.slice(0, start).map(line => [" ", line]),
    ...changed(left.slice(start, left.length - end), right.slice(start, right.length - end)),
    ...left.slice(left.length - end).map(line => [" ", line]),
  ];
  const hasChanged = all.some(([sign]) => sign !== " ");
  if (!hasChanged) return [];
  const isNear = all.map((_, at) => all.slice(Math.max(0, at - CONTEXT), at + CONTEXT + 1).some(([sign]) => sign !== " "));
  return all.flatMap((line, at) => isNear[at] ? [line] : isNear[at - 1] ?? true ? [["…", ""]] : []);
}
