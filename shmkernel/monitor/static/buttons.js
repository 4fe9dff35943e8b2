// What can be done with the selected segments: buttons, a question before a name goes, and the answers of the kernel.
import { make, put } from "./table.js";
import { holding } from "./texts.js";

/** @typedef {import("./texts.js").Row} Row */

const PATIENCE = 400; // milliseconds until an action is shown as pending
const PAIRS = /** @type {Record<string, string>} */ ({ keep: "end", end: "keep", attach: "close", close: "attach" });

export class Buttons {
  /** @param {(verb: string, row: Row) => number} act sends an action and returns its number */
  constructor(act) {
    this.act = act;
    /** @type {Row[]} */ this.rows = [];
    this.live = true; // whether the kernel can carry out actions
    /** @type {Set<number>} */ this.waiting = new Set(); // numbers of actions without an answer
    /** @type {string[]} */ this.answers = [];
    this.good = true; // whether all answers were
    this.timer = 0;
    /** @type {Set<string>} */ this.unlinked = new Set(); // keys of rows that are about to go
    this.bar = make("span", { class: "shm-buttons", role: "group", "aria-label": "Actions" });
    this.result = make("div", { class: "shm-result", role: "status" });
    this.offer();
  }

  /** @param {Row[]} rows */
  show(rows) {
    const known = (/** @type {Row[]} */ of) => JSON.stringify(of.map((row) => [row.key, row.inode, row.state, row.lifetime, isHere(row)]));
    const [before, now] = [known(this.rows), known(rows)];
    if (before === now) return void (this.rows = rows);
    const [old, keys] = [this.rows, rows].map((some) => some.map((row) => row.key));
    const left = old.filter((key) => !keys.includes(key));
    const memory = (/** @type {Row[]} */ of) => JSON.stringify(of.map((row) => [row.key, row.inode, row.state]));
    const asked = this.bar.querySelector("[data-verb=yes]") && memory(this.rows) === memory(rows);
    this.rows = rows;
    if (left.some((key) => !this.unlinked.has(key))) this.forget(); // the answer about what was unlinked stays
    if (!asked) this.offer(); // a question stays as long as it is about the same memory
  }

  /** Show no answer any more. */
  forget() {
    clearTimeout(this.timer);
    this.waiting.clear();
    this.say("");
  }

  /** @param {boolean} live */
  connect(live) {
    if (live === this.live) return;
    this.live = live;
    this.forget();
    this.offer();
  }

  /** @param {string} text @param {string} [state] good, bad or pending */
  say(text, state = "") {
    put(this.result, text);
    this.result.dataset.state = state;
  }

  /** @returns {[string, string, string, boolean][]} the verb of each button, its text and hint, and whether it is off */
  choices() {
    const rows = this.rows;
    const many = rows.length > 1 ? ` ${rows.length}` : "";
    const here = rows.length > 0 && rows.every(isHere);
    const kept = rows.length > 0 && rows.every((row) => row.lifetime === "keep");
    const some = (/** @type {string[]} */ ...states) => rows.some((row) => states.includes(row.state));
    const ghost = rows.some((row) => row.inode === "0");
    const spoilt = some("damaged", "unreadable");
    return [
      ["attach", `Attach${many} here`, "Make it a variable of this notebook", spoilt || some("unlinked")],
      ["close", `Let${many} go here`, "Delete the variables of this notebook that hold it; the others keep it", !here],
      ["copy", "Copy attach line", "To paste into another notebook", ghost],
      kept
        ? ["end", `Keep${many} no longer`, "Let it end with its owner, or with the last who has it attached", ghost || spoilt]
        : ["keep", `Keep${many}`, "Keep it until somebody unlinks it", spoilt],
      ["unlink", `Unlink${many}…`, "Remove its name for everybody", ghost],
    ];
  }

  /** Show the buttons, and keep the focus on the same one. */
  offer() {
    const had = /** @type {HTMLElement | null} */ (this.bar.querySelector(":focus"))?.dataset.verb;
    this.bar.onkeydown = null;
    this.bar.replaceChildren(...this.choices().map(([verb, text, title, off]) => {
      const button = make("button", { type: "button", title, "data-verb": verb }, text);
      button.disabled = off || (!this.live && verb !== "copy");
      button.addEventListener("click", () => this.press(verb));
      return button;
    }));
    if (had) this.focus(had);
  }

  /** @param {string} verb focus its button or that of its opposite, or the first one if both are off */
  focus(verb) {
    const places = [`[data-verb=${verb}]`, `[data-verb=${PAIRS[verb] ?? verb}]`, "button"];
    const button = places.map((place) => this.bar.querySelector(`${place}:enabled`)).find(Boolean);
    /** @type {HTMLElement | null} */ (button ?? null)?.focus();
  }

  /** @param {string} verb */
  press(verb) {
    if (!this.rows.length || this.waiting.size) return;
    if (verb === "copy") this.copy();
    else if (verb === "unlink") this.ask();
    else this.send(verb);
  }

  /** Ask for confirmation. */
  ask() {
    const yes = make("button", { type: "button", class: "shm-danger", "data-verb": "yes" }, "Unlink for all");
    const no = make("button", { type: "button", "data-verb": "no" }, "No");
    yes.addEventListener("click", () => this.send("unlink"));
    no.addEventListener("click", () => this.again("unlink"));
    const names = this.rows.map((row) => row.name).join(", ");
    const holders = [...new Set(this.rows.filter((row) => row.count).map(holding))].join(", ");
    const [its, all] = this.rows.length > 1 ? ["their", ` ${this.rows.length} segments`] : ["its", ""];
    const keep = holders ? ` These keep ${its} memory: ${holders}` : "";
    this.bar.replaceChildren(`Unlink${all} ${names} for everybody?${keep}`, yes, no);
    this.bar.onkeydown = (event) => {
      if (event.key === "Escape") this.again("unlink");
    };
    no.focus();
  }

  /** @param {string} verb */
  again(verb) {
    this.offer();
    this.focus(verb);
  }

  /** @param {string} verb */
  send(verb) {
    if (!this.rows.length || this.waiting.size) return;
    for (const button of this.bar.querySelectorAll("button")) button.ariaDisabled = "true"; // a disabled one would lose the focus
    [this.answers, this.good] = [[], true];
    this.unlinked = new Set(verb === "unlink" ? this.rows.map((row) => row.key) : []);
    for (const row of this.rows) this.waiting.add(this.act(verb, row));
    this.say("…", "pending");
    clearTimeout(this.timer);
    const pending = verb === "scan" ? "Reading all values" : "Pending: the kernel answers when its cell ends";
    this.timer = window.setTimeout(() => this.say(pending, "pending"), PATIENCE);
  }

  /** @param {number} id @param {boolean} good @param {string} text */
  done(id, good, text) {
    if (!this.waiting.delete(id)) return;
    this.answers.push(text);
    this.good &&= good;
    if (this.waiting.size) return;
    clearTimeout(this.timer);
    this.say(this.answers.join("\n"), this.good ? "good" : "bad");
    this.offer();
  }

  async copy() {
    const plain = this.rows.every((row) => /^[A-Za-z_]\w*$/.test(row.name));
    const names = this.rows.map((row) => row.name);
    const line = plain ? `%shm_attach ${names.join(" ")}` : names.map((name) => `%shm_attach ${name} --as NAME`).join("\n");
    try {
      await navigator.clipboard.writeText(line);
      this.say(`Copied: ${line}`, "good");
    } catch {
      this.say(`Copy this line: ${line}`, "good"); // browsers refuse the clipboard without https or permission
    }
  }
}

/** @param {Row} row @returns {boolean} whether this notebook has it attached */
function isHere(row) {
  return row.attached.some((label) => label.startsWith("here ("));
}
