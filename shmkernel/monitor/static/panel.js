// The panel below the table: the selected segment's content, its statistics, and buttons.
import { Picture } from "./pictures.js";
import { make, put } from "./table.js";
import { dump, holding, people } from "./texts.js";

const PATIENCE = 400; // milliseconds until an action is shown as pending
const GLOW = 900;
const NUMBER = /^(u?int|float|complex)\d/;

/** @typedef {{key: string, axes: number[], start: number}} Look */

export class Panel {
  /**
   * @param {(look: Look) => void} look @param {(verb: string, row: import("./texts.js").Row) => number} act
   * sends an action and returns its number
   */
  constructor(look, act) {
    this.onlook = look;
    this.onact = act;
    /** @type {import("./texts.js").Row | null} */ this.row = null;
    /** @type {Look} */ this.look = { key: "", axes: [], start: 0 };
    /** @type {import("./texts.js").Frame | null} */ this.frame = null;
    this.place = ""; // the segment and the part of it that the frame shows
    this.pending = 0;
    this.live = true;
    this.timer = 0;
    this.title = make("span", { class: "shm-title" });
    this.what = make("span", { class: "shm-what" });
    this.who = make("div", { class: "shm-who" });
    this.buttons = make("span", { class: "shm-buttons", role: "group", "aria-label": "Actions" });
    this.result = make("div", { class: "shm-result", role: "status" });
    this.sliders = make("div", { class: "shm-sliders" });
    this.canvas = make("canvas", { role: "img" });
    this.reading = make("div", { class: "shm-reading" });
    this.picture = new Picture(this.canvas, this.reading);
    this.grid = make("table", { class: "shm-grid" });
    this.sheet = make("div", { class: "shm-sheet", tabindex: "0", role: "region", "aria-label": "Values" }, this.grid);
    this.pager = make("div", { class: "shm-pager" });
    this.stats = make("dl", { class: "shm-stats" });
    this.note = make("div", { class: "shm-remark" });
    const bar = make("div", { class: "shm-head" }, this.title, this.what, this.buttons);
    this.shown = make("div", { class: "shm-shown" }, this.canvas, this.sheet, this.pager, this.reading);
    const side = make("div", { class: "shm-side" }, this.stats, this.note);
    const content = make("div", { class: "shm-content" }, this.shown, side);
    this.element = make("section", { class: "shm-panel", "aria-label": "Selected segment" });
    this.element.append(bar, this.who, this.result, this.sliders, content);
    this.offer();
  }

  /** @param {import("./texts.js").Row | null} row */
  show(row) {
    const other = row?.key !== this.row?.key;
    const [before, now] = [this.row, row].map((one) => `${one?.key} ${one?.inode} ${one?.state} ${one?.lifetime}`);
    this.row = row;
    this.element.hidden = !row;
    put(this.title, row?.name ?? "");
    put(this.what, row ? [`${row.kind} ${row.type}`, row.human, row.lifetime, row.note].filter(Boolean).join(" · ") : "");
    put(this.who, row ? people(row) : "");
    if (other) {
      this.say("");
      this.frame = null;
      this.place = "";
      this.draw();
    }
    if (before !== now) this.offer();
  }

  /** @param {boolean} live whether the kernel can carry out actions */
  connect(live) {
    if (live === this.live) return;
    this.live = live;
    clearTimeout(this.timer);
    this.say("");
    this.offer();
  }

  /** @param {string} text @param {string} [state] good, bad or pending */
  say(text, state = "") {
    put(this.result, text);
    this.result.dataset.state = state;
  }

  /** Show the buttons, and keep the focus on the same one. */
  offer() {
    const had = /** @type {HTMLElement | null} */ (this.buttons.querySelector(":focus"))?.dataset.verb;
    this.waiting = false;
    const row = this.row;
    const ghost = !!row && row.inode === "0";
    const some = /** @type {[string, string, string, boolean][]} */ ([
      ["attach", "Attach here", "Make it a variable of this notebook", row?.state === "damaged" || row?.state === "unlinked"],
      ["copy", "Copy attach line", "To paste into another notebook", ghost],
      ["keep", "Keep", "Keep it until somebody unlinks it", row?.lifetime === "keep" || row?.state === "damaged"],
      ["unlink", "Unlink…", "Remove its name for everybody", ghost],
    ]);
    this.buttons.replaceChildren(...some.map(([verb, text, title, off]) => {
      const button = make("button", { type: "button", title, "data-verb": verb }, text);
      button.disabled = off || (!this.live && verb !== "copy");
      button.addEventListener("click", () => this.press(verb));
      return button;
    }));
    if (had) this.focus(had);
  }

  /** @param {string} verb focus its button, or the first button if it is disabled */
  focus(verb) {
    const button = this.buttons.querySelector(`[data-verb=${verb}]:enabled`) ?? this.buttons.querySelector("button:enabled");
    /** @type {HTMLElement | null} */ (button)?.focus();
  }

  /** @param {string} verb */
  press(verb) {
    if (!this.row || this.waiting) return;
    if (verb === "copy") this.copy(this.row.name);
    else if (verb === "unlink") this.ask();
    else this.send(verb);
  }

  /** Ask for confirmation. */
  ask() {
    const yes = make("button", { type: "button", class: "shm-danger", "data-verb": "yes" }, "Unlink for all");
    const no = make("button", { type: "button", "data-verb": "no" }, "No");
    yes.addEventListener("click", () => this.send("unlink"));
    no.addEventListener("click", () => this.again("unlink"));
    const keep = this.row?.count ? ` These keep its memory: ${holding(this.row)}` : "";
    this.buttons.replaceChildren(`Unlink ${this.row?.name} for everybody?${keep}`, yes, no);
    this.buttons.onkeydown = (event) => {
      if (event.key === "Escape") this.again("unlink");
    };
    no.focus();
  }

  /** @param {string} verb */
  again(verb) {
    this.buttons.onkeydown = null;
    this.offer();
    this.focus(verb);
  }

  /** @param {string} verb */
  send(verb) {
    if (!this.row || this.waiting) return;
    this.waiting = true; // a disabled button would lose the focus
    for (const button of this.buttons.querySelectorAll("button")) button.ariaDisabled = "true";
    this.say("…", "pending");
    this.pending = this.onact(verb, this.row);
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => this.say("Pending: the kernel answers when its cell ends", "pending"), PATIENCE);
  }

  /** @param {number} id @param {boolean} good @param {string} text */
  done(id, good, text) {
    if (id !== this.pending) return;
    clearTimeout(this.timer);
    this.say(text, good ? "good" : "bad");
    this.offer();
  }

  /** @param {string} name */
  async copy(name) {
    const plain = /^[A-Za-z_]\w*$/.test(name);
    const line = `%shm_attach ${name}${plain ? "" : " --as NAME"}`;
    try {
      await navigator.clipboard.writeText(line);
      this.say(`Copied: ${line}`, "good");
    } catch {
      this.say(`Copy this line: ${line}`, "good"); // browsers refuse the clipboard without https or permission
    }
  }

  /** @param {import("./texts.js").Frame} frame */
  receive(frame) {
    if (frame.key !== this.row?.key) return;
    const place = JSON.stringify([frame.key, this.row.inode, frame.axes, frame.start]);
    const same = place === this.place;
    const before = same ? this.frame : null;
    this.frame = frame;
    this.place = place;
    this.draw(before);
    if (["line", "heat", "image"].includes(frame.form)) this.picture.show(frame, same);
  }

  /** @param {import("./texts.js").Frame | null} [before] */
  draw(before = null) {
    const frame = this.frame;
    const form = frame?.form ?? "none";
    const picture = ["line", "heat", "image"].includes(form);
    this.element.dataset.form = form;
    this.canvas.hidden = !picture;
    this.sheet.hidden = form !== "grid" && form !== "hex";
    this.reading.hidden = !picture;
    const fixed = frame && picture && form !== "line"; // a line takes all the width
    this.shown.style.flex = fixed ? `0 1 ${Picture.width(frame)}px` : "";
    put(this.note, frame?.note ?? "");
    this.figures(frame?.stats ?? []);
    this.slide(frame?.axes ?? []);
    this.turn(frame);
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
