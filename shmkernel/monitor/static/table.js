// The table of segments, sorted and filtered. New, changed and removed rows are highlighted for a moment.
import { age, by, copied, holders, life, matches } from "./texts.js";

const COLUMNS = ["name", "kind", "type", "size", "owner", "attached", "version", "age"];
const MOMENT = 1600; // milliseconds

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag @param {Record<string, string>} attributes @param {...(Node | string)} content
 * @returns {HTMLElementTagNameMap[T]}
 */
export function make(tag, attributes = {}, ...content) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...content);
  // JupyterLab checks only the focused element: without this, the key x in a row cuts the cell
  if (tag === "button" || tag === "input" || "tabindex" in attributes) element.dataset.lmSuppressShortcuts = "true";
  return element;
}

/** @param {Element} element @param {string} text */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export class Table {
  /** @param {(row: import("./texts.js").Row | null) => void} choose called when another row is selected */
  constructor(choose) {
    this.choose = choose;
    /** @type {Map<string, {line: HTMLTableRowElement, cells: Record<string, HTMLElement>, row: import("./texts.js").Row, going: number}>} */
    this.lines = new Map();
    this.selected = "";
    /** @type {Set<string>} */ this.marked = new Set(); // keys of several rows, or none
    this.known = false; // whether the kernel has sent all segments
    this.filter = "";
    this.column = "name";
    this.down = false;
    this.heads = COLUMNS.map((name) => this.head(name));
    this.body = make("tbody");
    const head = make("thead", {}, make("tr", {}, ...this.heads));
    this.table = make("table", { role: "grid", "aria-label": "Segments", "aria-multiselectable": "true", class: "shm-table" }, head, this.body);
    this.empty = make("div", { class: "shm-empty" });
    this.element = make("div", { class: "shm-scroll" }, this.table, this.empty);
    this.body.addEventListener("click", (event) => {
      const key = /** @type {Element} */ (event.target).closest("tr")?.dataset.key;
      if (key == null) return;
      if (event.shiftKey) this.markTo(key);
      else if (event.ctrlKey || event.metaKey) this.mark(key);
      else this.select(key, true);
    });
    this.body.addEventListener("keydown", (event) => this.key(event));
  }

  /** @param {string} name */
  head(name) {
    const button = make("button", { type: "button", title: `Sort by ${name}` }, name);
    const cell = make("th", { scope: "col", class: `shm-${name}`, "aria-sort": "none" }, button);
    if (name === this.column) cell.setAttribute("aria-sort", "ascending");
    button.addEventListener("click", () => {
      this.down = this.column === name && !this.down;
      this.column = name;
      this.heads.forEach((one, at) => {
        one.setAttribute("aria-sort", COLUMNS[at] !== name ? "none" : this.down ? "descending" : "ascending");
      });
      this.arrange();
    });
    return cell;
  }

  /** @param {import("./texts.js").Row[]} rows @param {string[]} gone @param {boolean} quiet do not highlight */
  update(rows, gone, quiet) {
    for (const row of rows) {
      const known = this.lines.get(row.key);
      const line = known ?? this.line(row);
      if (known) clearTimeout(known.going);
      if (!quiet && (!known || known.row.inode !== row.inode)) flash(line.line, "shm-new");
      else if (!quiet && known && altered(known.row, row)) flash(line.line, "shm-changed");
      line.line.classList.remove("shm-gone");
      line.row = row;
      this.fill(line);
    }
    for (const key of gone) {
      const line = this.lines.get(key);
      if (!line) continue;
      line.line.classList.add("shm-gone");
      put(line.cells.note, "removed");
      line.going = window.setTimeout(() => this.remove(key), quiet ? 0 : MOMENT);
    }
    this.arrange();
  }

  /** @param {string} key */
  remove(key) {
    const keys = this.order().map(({ row }) => row.key);
    const at = keys.indexOf(key);
    this.lines.get(key)?.line.remove();
    this.lines.delete(key);
    this.marked.delete(key);
    if (key === this.selected) this.select(keys[at + 1] ?? keys[at - 1] ?? "", false);
    this.arrange();
  }

  /** @param {import("./texts.js").Row} row */
  line(row) {
    /** @type {Record<string, HTMLElement>} */
    const cells = { note: make("span", { class: "shm-note" }), sign: make("span", { class: "shm-sign" }) };
    const line = make("tr", { role: "row", tabindex: "-1", "aria-selected": "false" });
    for (const name of COLUMNS) {
      cells[name] = make("span");
      const cell = make("td", { role: "gridcell", class: `shm-${name}` });
      if (name === "owner") cell.append(cells.sign, " ");
      cell.append(cells[name]);
      if (name === "name") cell.append(" ", cells.note);
      line.append(cell);
    }
    line.dataset.key = row.key;
    const found = { line, cells, row, going: 0 };
    this.lines.set(row.key, found);
    return found;
  }

  /** @param {{line: HTMLTableRowElement, cells: Record<string, HTMLElement>, row: import("./texts.js").Row}} found */
  fill({ line, cells, row }) {
    const [sign, word] = life(row);
    put(cells.name, row.name);
    put(cells.note, row.state);
    put(cells.kind, row.kind);
    put(cells.type, row.type);
    put(cells.size, row.human);
    put(cells.sign, sign);
    put(cells.owner, copied(row) || (row.mine ? `${row.owner} (here)` : row.owner));
    put(cells.attached, holders(row));
    put(cells.version, row.version == null ? "" : String(row.version));
    put(cells.age, row.created ? age(Date.now() / 1000 - row.created) : "");
    cells.sign.title = word;
    cells.sign.setAttribute("aria-label", word);
    cells.sign.setAttribute("role", "img");
    cells.sign.className = `shm-sign ${row.alive ? "shm-alive" : ""}`;
    cells.owner.title = [copied(row), row.pid ? `${row.owner}, process ${row.pid}` : row.owner].filter(Boolean).join("\n");
    cells.attached.title = row.attached.join("\n");
    cells.name.title = row.note;
    line.dataset.state = row.state;
  }

  /** Update the ages. */
  tick() {
    for (const { cells, row } of this.lines.values()) {
      put(cells.age, row.created ? age(Date.now() / 1000 - row.created) : "");
    }
  }

  order() {
    const sort = by(this.column, this.down);
    return [...this.lines.values()].filter(({ row }) => matches(row, this.filter)).sort((a, b) => sort(a.row, b.row));
  }

  /** Sort and filter the rows. A row that does not move keeps its focus and scroll position. */
  arrange() {
    const wanted = this.order().map(({ line }) => line);
    const shown = new Set(wanted);
    for (const { line } of this.lines.values()) if (!shown.has(line)) line.remove();
    let at = this.body.firstElementChild;
    for (const line of wanted) {
      if (line === at) at = at.nextElementSibling;
      else this.body.insertBefore(line, at);
    }
    this.table.classList.toggle("shm-unversioned", ![...this.lines.values()].some(({ row }) => row.version != null));
    this.table.setAttribute("aria-rowcount", String(wanted.length + 1));
    put(this.empty, wanted.length ? "" : this.lines.size ? "No segment matches the filter" : this.known ? NOTHING : "");
    if (!wanted.some((line) => line.tabIndex === 0) && wanted[0]) wanted[0].tabIndex = 0;
    if (!this.selected && wanted[0]) this.select(wanted[0].dataset.key || "", false);
  }

  /** @returns {import("./texts.js").Row[]} the marked rows, or the selected one */
  chosen() {
    const keys = this.marked.size ? [...this.marked] : [this.selected];
    return keys.flatMap((key) => this.lines.get(key)?.row ?? []);
  }

  /** @param {string} key add a row to those that the buttons are for, or take it away */
  mark(key) {
    if (!this.marked.size && this.selected) this.marked.add(this.selected);
    if (!this.marked.delete(key) || !this.marked.size) this.marked.add(key);
    this.paint();
  }

  /** @param {string} key mark the rows from the selected one to this one */
  markTo(key) {
    const keys = this.order().map(({ row }) => row.key);
    const [from, to] = [keys.indexOf(this.selected), keys.indexOf(key)].sort((a, b) => a - b);
    this.marked = new Set(keys.slice(Math.max(0, from), to + 1));
    this.paint();
  }

  /** Show which rows are chosen, and tell the panel. */
  paint() {
    const one = this.marked.size < 2;
    for (const [key, { line }] of this.lines) line.ariaSelected = String(one ? key === this.selected : this.marked.has(key));
    this.choose(this.lines.get(this.selected)?.row ?? null);
  }

  /** @param {string} key @param {boolean} focus */
  select(key, focus) {
    if (this.marked.size) {
      this.marked.clear();
      this.paint();
    }
    const last = this.lines.get(this.selected);
    const next = this.lines.get(key);
    for (const { line } of this.lines.values()) if (line.tabIndex === 0) line.tabIndex = -1;
    last?.line.setAttribute("aria-selected", "false");
    next?.line.setAttribute("aria-selected", "true");
    if (next) next.line.tabIndex = 0;
    if (next && focus) next.line.focus();
    if (this.selected !== key || !focus) this.choose(next?.row ?? null);
    this.selected = key;
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const keys = this.order().map(({ row }) => row.key);
    const at = keys.indexOf(this.selected);
    if (event.key === " ") {
      event.preventDefault();
      const here = /** @type {Element} */ (event.target).closest("tr")?.dataset.key;
      return here == null ? undefined : this.mark(here);
    }
    if (event.shiftKey && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      event.stopPropagation();
      const here = keys.indexOf(/** @type {Element} */ (event.target).closest("tr")?.dataset.key ?? this.selected);
      const next = keys[Math.max(0, Math.min(keys.length - 1, here + (event.key === "ArrowDown" ? 1 : -1)))];
      this.markTo(next);
      this.lines.get(next)?.line.focus();
      return;
    }
    const steps = /** @type {Record<string, number>} */ ({
      ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 10, PageUp: at - 10, Home: 0, End: keys.length - 1,
    });
    if (!(event.key in steps) || !keys.length) return;
    event.preventDefault();
    event.stopPropagation();
    this.select(keys[Math.max(0, Math.min(keys.length - 1, steps[event.key]))], true);
  }
}

const NOTHING = "Nothing is shared yet. Share a variable: %shm_create NAME";

/** @param {import("./texts.js").Row} a @param {import("./texts.js").Row} b */
function altered(a, b) {
  return a.size !== b.size || a.type !== b.type || a.lifetime !== b.lifetime || a.version !== b.version || a.state !== b.state;
}

/** @param {HTMLElement} element @param {string} name */
function flash(element, name) {
  element.classList.add(name);
  window.setTimeout(() => element.classList.remove(name), MOMENT);
}
