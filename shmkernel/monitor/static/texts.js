// Texts and numbers for the monitor: pure functions.

/**
 * A segment, as the kernel describes it.
 * @typedef {{key: string, inode: string, name: string, kind: string, type: string, size: number, human: string,
 *   owner: string, alive: boolean, mine: boolean, pid: number | null, attached: string[], count: number,
 *   lifetime: string, created: number | null, state: string, note: string,
 *   origin: string, version?: number | null}} Row
 *
 * The facts and numbers of a preview.
 * @typedef {{key: string, form: string, stats: [string, string][], note: string, axes?: {size: number, at: number}[],
 *   low: number, high: number, width: number, height: number, w: number, h: number, dots: number, joined: boolean, most?: number,
 *   forms?: string[], sampled?: boolean, number?: number,
 *   columns: [string, string][], about?: string[][], rows: string[][], start: number, step: number, total: number, line: number,
 *   data: DataView}} Frame
 */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** @param {number} size @returns {string} bytes in their largest unit: "270.8 KiB" */
export function human(size) {
  let unit = 0;
  for (; size >= 1024 && unit < UNITS.length - 1; unit += 1) size /= 1024;
  return `${unit ? size.toFixed(1) : Math.round(size)} ${UNITS[unit]}`;
}

/** @param {number} seconds @returns {string} a time span in its largest unit: "4 min" */
export function age(seconds) {
  for (const [size, unit] of /** @type {[number, string][]} */ ([[86400, "d"], [3600, "h"], [60, "min"]])) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.max(Math.round(seconds), 0)} s`;
}

/** @param {number} value @returns {string} a number with at most six digits */
export function brief(value) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e15) return String(value);
  return size >= 1e6 || (size < 1e-4 && size > 0) ? value.toExponential(3) : String(Number(value.toPrecision(6)));
}

/** @param {Row} row @returns {[string, string]} a sign for the owner's state, and its description */
export function life(row) {
  if (row.state === "damaged" || row.state === "unreadable") return ["!", row.state];
  if (row.lifetime === "keep") return ["◆", row.alive ? "kept, its owner runs" : "kept"];
  return row.alive ? ["●", "its owner runs"] : ["○", "its owner has ended"];
}

/** @param {Row} row @returns {string} number and names of the holders: "3: here, plot +1" */
export function holders(row) {
  if (!row.count) return "0";
  const some = row.attached.slice(0, 2).map((label) => label.replace(/ \(\d+\)$/, ""));
  return `${row.count}: ${some.join(", ")}${row.count > some.length ? ` +${row.count - some.length}` : ""}`;
}

/** @param {Row} row @returns {string} all holders in a sentence: "this notebook, plot (8) and 3 more" */
export function holding(row) {
  const labels = row.attached.map((label) => label.replace(/^here \(\d+\)$/, "this notebook"));
  return `${labels.join(", ")}${row.count > labels.length ? ` and ${row.count - labels.length} more` : ""}`;
}

/** @param {Row} row @returns {string} of a snapshot, which segment of another host it copies: "snapshot of hostA:x, version 3" */
export function copied(row) {
  return row.origin && `snapshot of ${row.origin}`;
}

/** @param {Row} row @returns {string} what a narrow table leaves out: "made by a.ipynb, process 7 · attached by a (7)" */
export function people(row) {
  return [
    copied(row),
    row.mine ? "made by this notebook" : `made by ${row.owner}${row.pid ? `, process ${row.pid}` : ""}${row.alive || row.kind === "file" ? "" : " (ended)"}`,
    row.count ? `attached by ${holding(row)}` : "attached by nobody",
    row.version == null ? "" : `version ${row.version}`,
  ].filter(Boolean).join(" · ");
}

const collator = new Intl.Collator(undefined, { numeric: true }); // faster than localeCompare

/** @type {Record<string, (row: Row) => string | number>} */
const ORDER = {
  name: (row) => row.name,
  kind: (row) => row.kind,
  type: (row) => row.type,
  size: (row) => row.size,
  owner: (row) => copied(row) || row.owner,
  attached: (row) => row.count,
  version: (row) => row.version ?? -1,
  age: (row) => -(row.created ?? 0),
};

/** @param {string} column @param {boolean} down @returns {(a: Row, b: Row) => number} */
export function by(column, down) {
  const value = ORDER[column] ?? ORDER.name;
  return (a, b) => {
    const [x, y] = [value(a), value(b)];
    const order = typeof x === "string" ? collator.compare(x, String(y)) : x - Number(y);
    return (down ? -order : order) || collator.compare(a.key, b.key);
  };
}

/** @param {Row} row @param {string} wanted @returns {boolean} whether the row contains every word */
export function matches(row, wanted) {
  const text = [row.name, row.kind, row.type, row.owner, row.state, row.lifetime, copied(row)].join(" ").toLowerCase();
  return wanted.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

/** @param {DataView} data @param {number} start @param {number} line @returns {string[][]} address, bytes, letters */
export function dump(data, start, line) {
  const rows = [];
  for (let at = 0; at < data.byteLength; at += line) {
    const bytes = Array.from({ length: Math.min(line, data.byteLength - at) }, (_, i) => data.getUint8(at + i));
    rows.push([
      ((start + at / line) * line).toString(16).padStart(8, "0"),
      ...bytes.map((byte) => byte.toString(16).padStart(2, "0")),
      ...Array(line - bytes.length).fill(""),
      bytes.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : "·")).join(""),
    ]);
  }
  return rows;
}

/** @param {number} share from 0 to 1 @returns {[number, number, number]} viridis, by a polynomial */
export function colour(share) {
  const t = Math.min(1, Math.max(0, share));
  return /** @type {[number, number, number]} */ (
    [
      [0.2777, 0.1051, -0.3309, -4.6342, 6.2283, 4.7764, -5.4355],
      [0.0054, 1.4046, 0.2148, -5.7991, 14.1799, -13.7451, 4.6459],
      [0.3341, 1.3846, 0.0951, -19.3324, 56.6906, -65.353, 26.3124],
    ].map((terms) => 255 * Math.min(1, Math.max(0, terms.reduceRight((sum, term) => sum * t + term, 0))))
  );
}
