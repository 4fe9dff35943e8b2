// The panel below the table: the selected segment's content, its statistics, and buttons.
import { Buttons } from "./buttons.js";
import { Picture } from "./pictures.js";
import { make, put } from "./table.js";
import { brief, dump, people } from "./texts.js";

const GLOW = 900;
const NUMBER = /^(u?int|float|complex)\d/;

const PICTURES = ["line", "heat", "image", "bars"];
const FORMS = /** @type {Record<string, string>} */ ({ "": "Picture", table: "Table", histogram: "Histogram" });
const WHILE = 5000; // milliseconds over which the rate of a stream is taken

/** @typedef {{key: string, axes: number[], start: number, form: string}} Look */

export class Panel {
  /**
   * @param {(look: Look) => void} look @param {(verb: string, row: import("./texts.js").Row) => number} act
   * sends an action and returns its number
   */
  constructor(look, act) {
    this.onlook = look;
    /** @type {import("./texts.js").Row | null} */ this.row = null;
    /** @type {Look} */ this.look = { key: "", axes: [], start: 0, form: "" };
    /** @type {import("./texts.js").Frame | null} */ this.frame = null;
    this.place = ""; // the segment and the part of it that the frame shows
    /** @type {[number, number][]} */ this.frames = []; // of a stream: when which frame was the newest
    this.buttons = new Buttons(act);
    this.title = make("span", { class: "shm-title" });
    this.what = make("span", { class: "shm-what" });
    this.who = make("span");
    this.open = make("button", { type: "button", class: "shm-open", title: "Open the notebook that made it" });
    this.open.addEventListener("click", () => this.open.dispatchEvent(new CustomEvent("shm-open", { bubbles: true, detail: this.row?.owner })));
    this.forms = make("div", { class: "shm-forms", role: "group", "aria-label": "Show as" });
    this.whole = make("button", { type: "button", class: "shm-scan", title: "Read all values, once" }, "Scan all");
    this.whole.addEventListener("click", () => this.buttons.send("scan"));
    this.sliders = make("div", { class: "shm-sliders" });
    this.canvas = make("canvas", { role: "img" });
    this.reading = make("div", { class: "shm-reading" });
    this.picture = new Picture(this.canvas, this.reading);
    this.grid = make("table", { class: "shm-grid" });
    this.sheet = make("div", { class: "shm-sheet", tabindex: "0", role: "region", "aria-label": "Values" }, this.grid);
    this.pager = make("div", { class: "shm-pager" });
    this.stats = make("dl", { class: "shm-stats" });
    this.note = make("div", { class: "shm-remark" });
    this.rate = make("div", { class: "shm-rate" });
    const bar = make("div", { class: "shm-head" }, this.title, this.what, this.buttons.bar);
    this.shown = make("div", { class: "shm-shown" }, this.canvas, this.sheet, this.pager, this.reading);
    const side = make("div", { class: "shm-side" }, this.stats, this.note, this.whole, this.rate);
    const content = make("div", { class: "shm-content" }, this.shown, side);
    this.element = make("section", { class: "shm-panel", "aria-label": "Selected segment" });
    const who = make("div", { class: "shm-who" }, this.who, this.open);
    this.element.append(bar, who, this.buttons.result, this.forms, this.sliders, content);
  }

  /** @param {import("./texts.js").Row | null} row @param {import("./texts.js").Row[]} rows all that are marked, or this one */
  show(row, rows) {
    const other = row?.key !== this.row?.key;
    this.row = row;
    this.element.hidden = !row;
    put(this.title, rows.length > 1 ? `${row?.name} and ${rows.length - 1} more` : row?.name ?? "");
    put(this.what, row ? [`${row.kind} ${row.type}`, row.human, row.lifetime, row.note].filter(Boolean).join(" · ") : "");
    put(this.who, row ? people(row) : "");
    put(this.open, row && !row.mine && row.owner.endsWith(".ipynb") ? `Open ${row.owner}` : "");
    this.buttons.show(rows);
    if (other) {
      this.frame = null;
      this.frames = [];
      this.place = "";
      this.draw();
    }
  }

  /** @param {import("./texts.js").Frame} frame */
  receive(frame) {
    if (frame.key !== this.row?.key) return;
    const place = JSON.stringify([frame.key, this.row.inode, frame.axes, frame.start, frame.form]);
    const same = place === this.place;
    const before = same ? this.frame : null;
    this.frame = frame;
    this.place = place;
    if (frame.number) this.frames.push([performance.now(), frame.number]);
    this.tick();
    this.draw(before);
    if (PICTURES.includes(frame.form)) this.picture.show(frame, same);
  }

  /** Show how many frames a second a stream has, of late. */
  tick() {
    const now = performance.now();
    this.frames = this.frames.filter(([when]) => now - when < WHILE);
    const [[began, first] = [0, 0], [ended, last] = [0, 0]] = [this.frames[0], this.frames[this.frames.length - 1]];
    const rate = ended > began ? (1000 * (last - first)) / (now - began) : 0;
    put(this.rate, this.frame?.number ? (rate ? `live, ${brief(Number(rate.toPrecision(2)))} frames/s` : "no new frame now") : "");
  }

  /** @param {import("./texts.js").Frame | null} frame offer the other ways to show numbers */
  offer(frame) {
    const forms = frame?.forms ?? [];
    if (forms.join() !== [...this.forms.children].map((one) => /** @type {HTMLElement} */ (one).dataset.form).join()) {
      this.forms.replaceChildren(...forms.map((form) => {
        const button = make("button", { type: "button", "data-form": form }, FORMS[form] ?? form);
        button.addEventListener("click", () => this.onlook({ ...this.look, form, start: 0 }));
        return button;
      }));
    }
    for (const button of this.forms.children) button.ariaPressed = String(/** @type {HTMLElement} */ (button).dataset.form === (this.look.form ?? ""));
    this.whole.hidden = !(frame?.sampled && this.row?.kind === "array" && this.row.inode !== "0" && this.buttons.rows.length === 1);
  }

  /** @param {import("./texts.js").Frame | null} [before] */
  draw(before = null) {
    const frame = this.frame;
    const form = frame?.form ?? "none";
    const picture = PICTURES.includes(form);
    this.element.dataset.form = form;
    this.canvas.hidden = !picture;
    this.sheet.hidden = form !== "grid" && form !== "hex";
    this.reading.hidden = !picture;
    const fixed = frame && picture && form !== "line" && form !== "bars"; // these take all the width
    this.shown.style.flex = fixed ? `0 1 ${Picture.width(frame)}px` : "";
    put(this.note, frame?.note ?? "");
    this.figures(frame?.stats ?? []);
    this.slide(frame?.axes ?? []);
    this.turn(frame);
    this.offer(frame);
    if (!frame) return;
    if (form === "grid") this.cells(frame.columns.map(([title]) => title), frame.columns.map(([, type]) => type), frame.rows, frame.about);
    if (form === "hex") this.cells([...Array.from({ length: frame.line }, (_, i) => i.toString(16)), "text"], [], dump(frame.data, frame.start, frame.line));
    if (!before || before.form !== form) this.sheet.scrollTop = 0;
    const numbers = frame.stats.map((pair) => pair.join(" ")).join(", ");
    if (picture) this.canvas.setAttribute("aria-label", `${form} of ${this.row?.name}, ${this.row?.type}: ${numbers} ${frame.note}`);
    else this.picture.frame = null;
  }

  /** @param {[string, string][]} pairs */
  figures(pairs) {
    const parts = pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
    if (parts.map((one) => one.textContent).join("\n") === [...this.stats.children].map((one) => one.textContent).join("\n")) return;
    this.stats.replaceChildren(...parts);
  }

  /** @param {{size: number, at: number}[]} axes one slider each; existing sliders are reused, since one may have the focus */
  slide(axes) {
    while (this.sliders.children.length > axes.length) this.sliders.lastElementChild?.remove();
    axes.forEach(({ size, at }, axis) => {
      let label = /** @type {HTMLElement | undefined} */ (this.sliders.children[axis]);
      if (!label) {
        const slider = make("input", { type: "range", min: "0" });
        slider.addEventListener("input", () => this.move(axis, Number(slider.value)));
        label = make("label", {}, make("span", {}, `axis ${axis}`), slider, make("output"));
        this.sliders.append(label);
      }
      const [, slider, output] = /** @type {[HTMLElement, HTMLInputElement, HTMLOutputElement]} */ (/** @type {unknown} */ ([...label.children]));
      slider.max = String(size - 1);
      if (document.activeElement !== slider) slider.value = String(at);
      put(output, `index ${slider.value} (0–${size - 1})`);
    });
  }

  /** @param {number} axis @param {number} at */
  move(axis, at) {
    const axes = (this.frame?.axes ?? []).map((shown, number) => (number === axis ? at : this.look.axes[number] ?? shown.at));
    this.onlook({ ...this.look, axes });
    this.slide((this.frame?.axes ?? []).map(({ size }, number) => ({ size, at: axes[number] })));
  }

  /** @param {import("./texts.js").Frame | null} frame show which of all rows are displayed */
  turn(frame) {
    const { start = 0, step = 0, total = 0 } = frame ?? {};
    this.pager.hidden = !(total > step);
    if (this.pager.hidden) return;
    if (!this.pager.children.length) {
      for (const [text, title, way] of /** @type {[string, string, number][]} */ ([["|◀", "First", -Infinity], ["◀", "Previous", -1], ["▶", "Next", 1], ["▶|", "Last", Infinity]])) {
        const button = make("button", { type: "button", title, "aria-label": title }, text);
        button.addEventListener("click", () => {
          const { start: from = 0, step: by = 0, total: of = 0 } = this.frame ?? {};
          const next = way === Infinity ? of - by : way === -Infinity ? 0 : from + way * by;
          this.onlook({ ...this.look, start: Math.max(0, Math.min(next, of - by)) });
        });
        this.pager.append(button);
      }
      this.pager.append(make("span"));
    }
    const lines = frame?.form === "hex" ? "lines" : "rows";
    put(/** @type {Element} */ (this.pager.lastElementChild), `${lines} ${start}–${start + step - 1} of ${total.toLocaleString("en")}`);
  }

  /**
   * Write only cells that differ, and highlight them.
   * @param {string[]} heads @param {string[]} types @param {string[][]} rows @param {string[][]} [about] lines on the columns
   */
  cells(heads, types, rows, about = []) {
    const shape = JSON.stringify([heads, types, rows.length, about, this.place]);
    if (this.grid.dataset.shape !== shape) {
      this.grid.dataset.shape = shape;
      const kinds = heads.map((_, at) => (NUMBER.test(types[at]) ? "shm-number" : ""));
      const titles = heads.map((text, at) => make("th", { scope: "col", class: kinds[at] }, text, ...(types[at] ? [make("small", {}, types[at])] : [])));
      /** @type {(style: string) => (row: string[]) => HTMLElement} */
      const line = (style) => ([label, ...texts]) => make("tr", { class: style }, make("th", { scope: "row" }, label), ...texts.map((text, at) => make("td", { class: kinds[at] }, text)));
      const head = make("thead", {}, make("tr", {}, make("th"), ...titles), ...about.map(line("shm-about")));
      this.grid.replaceChildren(head, make("tbody", {}, ...rows.map(line(""))));
      return;
    }
    rows.forEach((row, at) => {
      const line = this.grid.tBodies[0].rows[at];
      row.forEach((text, column) => {
        const cell = line.cells[column];
        if (!cell || cell.textContent === text) return;
        cell.textContent = text;
        cell.classList.add("shm-moved");
        window.setTimeout(() => cell.classList.remove("shm-moved"), GLOW);
      });
    });
  }
}
