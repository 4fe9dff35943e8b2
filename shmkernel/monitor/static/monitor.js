// The monitor in a page. One store keeps what the kernel sends; each view of the widget is a table and a panel.
import { Panel } from "./panel.js";
import { make, put, Table } from "./table.js";
import { human } from "./texts.js";

const SILENCE = 2300; // milliseconds without a message; the kernel sends one every second
const RENEW = 10000;
const GONE = "Not connected: the kernel was restarted or has ended. Run %load_ext shmkernel, then %shm_watch";
const SILENT = "Not connected: the kernel does not answer. It has ended, or one long call keeps it busy";

/** @typedef {{total: number, mine: number, shared: number, others: number, free: number, short: boolean}} Room */

/** The bar's parts and their labels. @type {["mine" | "shared" | "others", string][]} */
const PARTS = [["mine", "here"], ["shared", "of other notebooks"], ["others", "other files"]];

/** What the kernel has sent, and the way to send it messages. */
class Store {
  /** @param {any} model an anywidget model */
  constructor(model) {
    this.model = model;
    /** @type {Map<string, import("./texts.js").Row>} */ this.rows = new Map();
    /** @type {Room | null} */ this.room = null;
    /** @type {import("./texts.js").Frame | null} */ this.frame = null;
    /** @type {import("./panel.js").Look} */ this.look = { key: "", axes: [], start: 0, form: "", ...model.get("look") };
    /** @type {Set<View>} */ this.views = new Set();
    this.heard = 0; // time of the last message
    this.dead = false;
    this.known = false; // whether all rows have arrived
    /** @type {Set<string> | null} */ this.coming = null; // keys of a full listing while its parts arrive
    this.trouble = "";
    this.number = 0;
    this.hear = this.hear.bind(this);
    this.revive = () => this.tell({ do: "hello" });
    model.on("msg:custom", this.hear);
    model.on("comm_live_update", this.revive);
    this.revive();
  }

  /** @param {object} message */
  tell(message) {
    try {
      this.model.send(message);
      this.dead = false;
    } catch {
      this.dead = true; // the comm was closed together with its kernel
    }
    for (const view of this.views) view.connection();
  }

  /** @param {any} message @param {DataView[]} buffers */
  hear(message, buffers) {
    this.heard = performance.now();
    if (message.do === "rows") this.update(message);
    if (message.do === "frame") {
      this.frame = { ...message, data: buffers[0] };
      for (const view of this.views) view.panel.receive(/** @type {import("./texts.js").Frame} */ (this.frame));
    }
    if (message.do === "done") for (const view of this.views) view.panel.buttons.done(message.id, message.good, message.text);
    this.trouble = message.do === "trouble" ? message.text : "";
    for (const view of this.views) view.connection();
  }

  /** @param {{rows: import("./texts.js").Row[], gone?: string[], first?: boolean, last?: boolean, room?: Room}} message */
  update({ rows, gone = [], first = false, last = false, room }) {
    const quiet = !this.known;
    if (first) this.coming = new Set();
    for (const row of rows) this.coming?.add(row.key);
    const lost = last && this.coming ? [...this.rows.keys()].filter((key) => !this.coming?.has(key)) : [];
    for (const key of [...gone, ...lost]) this.rows.delete(key);
    for (const row of rows) this.rows.set(row.key, row);
    this.room = room ?? this.room;
    if (last) this.coming = null;
    this.known = this.known || last;
    for (const view of this.views) view.update(rows, [...gone, ...lost], quiet);
  }

  /** @param {import("./panel.js").Look} look */
  see(look) {
    this.look = look;
    this.tell({ do: "look", ...look });
    for (const view of this.views) view.follow();
  }

  end() {
    this.model.off("msg:custom", this.hear);
    this.model.off("comm_live_update", this.revive);
  }
}

class View {
  /** @param {Store} store @param {HTMLElement} el */
  constructor(store, el) {
    this.store = store;
    this.id = Math.random().toString(36).slice(2);
    this.near = false; // scrolled into view
    this.on = false;
    this.since = 0;
    this.renewed = 0;
    this.table = new Table((row) => this.choose(row));
    this.panel = new Panel((look) => store.see(look), (verb, row) => {
      store.number += 1;
      const { name, inode } = row;
      store.tell(verb === "scan" ? { do: "scan", id: store.number, name, inode } : { do: "act", id: store.number, verb, name, inode });
      return store.number;
    });
    this.bar = make("div", { class: "shm-bar", "aria-hidden": "true" }, ...PARTS.map(([part]) => make("span", { class: `shm-part-${part}` })));
    this.sum = make("div", { class: "shm-sum" }, make("span"), ...PARTS.map(([part]) => make("span", { class: `shm-key shm-part-${part}` })), make("span"));
    this.filter = make("input", { type: "search", placeholder: "Filter", "aria-label": "Filter segments" });
    this.status = make("span", { class: "shm-status", role: "status" });
    const head = make("div", { class: "shm-top" }, this.sum, this.filter, this.status);
    this.element = make("div", { class: "shm-monitor", role: "region", "aria-label": "Shared memory" });
    this.element.append(this.bar, head, this.table.element, this.panel.element);
    el.append(this.element);
    this.filter.addEventListener("input", () => {
      this.table.filter = this.filter.value;
      this.table.arrange();
      this.summary();
    });
    this.filter.addEventListener("keydown", (event) => event.key === "ArrowDown" && this.table.select(this.table.selected, true));
    this.seen = new IntersectionObserver((entries) => this.watch(entries[entries.length - 1].isIntersecting));
    this.seen.observe(this.element);
    this.turned = () => this.watch(this.near);
    document.addEventListener("visibilitychange", this.turned);
    this.sized = new ResizeObserver(() => this.panel.picture.draw());
    this.sized.observe(this.panel.canvas);
    this.timer = window.setInterval(() => this.tick(), 500);
    store.views.add(this);
    this.table.selected = store.look.key;
    this.update([...store.rows.values()], [], true);
    if (store.frame) this.panel.receive(store.frame);
  }

  /** @param {import("./texts.js").Row[]} rows @param {string[]} gone @param {boolean} quiet */
  update(rows, gone, quiet) {
    const { look, rows: all } = this.store;
    this.table.known = this.store.known;
    this.table.update(rows, gone, quiet);
    if (this.store.known && !all.has(look.key) && !this.table.lines.has(look.key)) this.table.select(this.table.order()[0]?.row.key ?? "", false);
    else if (!this.table.marked.size && this.table.lines.get(look.key)?.line.ariaSelected !== "true") this.table.select(look.key, false);
    this.panel.look = this.store.look;
    this.panel.show(this.table.lines.get(this.store.look.key)?.row ?? null, this.table.chosen());
    this.summary();
    this.connection();
  }

  /** @param {import("./texts.js").Row | null} row */
  choose(row) {
    if ((row?.key ?? "") !== this.store.look.key) this.store.see({ key: row?.key ?? "", axes: [], start: 0, form: "" });
    this.panel.show(row, this.table.chosen());
  }

  /** Show the segment that this or another view has selected. */
  follow() {
    this.panel.look = this.store.look;
    this.panel.offer(this.panel.frame);
    if (this.table.selected !== this.store.look.key) this.table.select(this.store.look.key, false);
  }

  /** Show how the folder is used, as a bar and in words. */
  summary() {
    const { room, rows } = this.store;
    if (!room) return;
    const [count, ...rest] = [...this.sum.children];
    const shown = this.table.filter ? `${this.table.order().length} of ` : "";
    put(count, `${shown}${rows.size} segment${rows.size === 1 ? "" : "s"}`);
    PARTS.forEach(([part, word], at) => {
      const span = /** @type {HTMLElement} */ (this.bar.children[at]);
      span.style.minWidth = room[part] ? "3px" : "0";
      span.style.width = `${(100 * room[part]) / (room.total || 1)}%`;
      put(rest[at], `${human(room[part])} ${word}`);
    });
    put(rest[PARTS.length], `${human(room.free)} available of ${human(room.total)}${room.short ? ": nearly full" : ""}`);
    this.element.classList.toggle("shm-short", room.short);
  }

  /** @param {boolean} near */
  watch(near) {
    this.near = near;
    const on = near && document.visibilityState === "visible";
    if (on === this.on) return;
    this.on = on;
    this.since = this.renewed = performance.now();
    this.store.tell({ do: "see", view: this.id, on });
  }

  tick() {
    if (!this.on) return;
    this.table.tick();
    this.panel.picture.suit();
    this.panel.tick();
    this.connection();
    if (performance.now() - this.renewed > RENEW) {
      this.renewed = performance.now();
      this.store.tell({ do: "see", view: this.id, on: true });
    }
  }

  /** Show whether the kernel answers. */
  connection() {
    const { dead, heard, trouble } = this.store;
    const silent = this.on && performance.now() - Math.max(heard, this.since) > SILENCE;
    const live = !dead && !silent;
    this.element.dataset.live = live ? "yes" : "no";
    this.panel.buttons.connect(!dead);
    put(this.status, dead ? GONE : silent ? SILENT : trouble || (heard ? "live" : "connecting"));
  }

  end() {
    this.store.views.delete(this);
    this.seen.disconnect();
    this.sized.disconnect();
    document.removeEventListener("visibilitychange", this.turned);
    clearInterval(this.timer);
    cancelAnimationFrame(this.panel.picture.waiting);
    if (this.on) this.store.tell({ do: "see", view: this.id, on: false });
  }
}

/** Called once for each model. */
export default () => {
  /** @type {Store} */ let store;
  return {
    /** @param {{model: any}} context */
    initialize({ model }) {
      store = new Store(model);
      return () => store.end();
    },
    /** @param {{el: HTMLElement}} context */
    render({ el }) {
      const view = new View(store, el);
      return () => view.end();
    },
  };
};
