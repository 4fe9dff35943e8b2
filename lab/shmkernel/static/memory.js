// What the server says about shared memory. It is asked only while something that shows it is in sight.

/**
 * A segment, as the server describes it.
 * @typedef {{name: string, inode: string, kind: string, type: string, size: string, owner: string, people: string,
 *   holders: string[], count: number, elsewhere: boolean, lifetime: string, state: string, origin: string}} Segment
 * @typedef {{folder: string, size: string, free: string, short: boolean, total: string, segments: Segment[]}} State
 * @typedef {Segment & {folder: string, facts: [string, string][]}} Details
 */

const TICK = 500; // milliseconds between looks at what is in sight: they cost no request
const PANEL = 2000; // between requests while the panel is in sight
const BAR = 10000; // while only the status bar is, and no cell ends
const SHARE = 20; // a server that is slow to answer is asked less often: between requests, this many times as long

/** An answer of the server other than "done". */
export class Refusal extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export class Memory {
  /** @param {import("./plugin.js").Modules} modules @param {any} settings the server's address and token */
  constructor({ services, coreutils, signaling }, settings) {
    this.connection = services.ServerConnection;
    this.settings = settings;
    this.url = coreutils.URLExt.join(settings.baseUrl, "shmkernel/segments");
    this.changed = new signaling.Signal(this);
    /** @type {State | null} */ this.state = null;
    this.trouble = ""; // why there is no state, or an old one
    this.absent = false; // the server lacks our part
    this.asked = 0;
    this.took = 0; // milliseconds
    this.waiting = false; // for an answer
    this.seen = false; // the panel was in sight at the last tick
    this.stale = false; // a cell has ended since the last request: it may have shared something
  }

  get segments() {
    return this.state?.segments ?? [];
  }

  /** @param {string} method @param {Record<string, string>} [query] @returns {Promise<any>} */
  async ask(method, query = {}) {
    const url = Object.keys(query).length ? `${this.url}?${new URLSearchParams(query)}` : this.url;
    const answer = await this.connection.makeRequest(url, { method, cache: "no-store" }, this.settings);
    const found = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Refusal(answer.status, found.message ?? `the server answered ${answer.status}`);
    return found;
  }

  /** Ask for the list, and tell if it is another. */
  async look() {
    this.asked = performance.now();
    this.waiting = true;
    this.stale = false;
    const before = JSON.stringify([this.state, this.trouble]);
    try {
      this.state = await this.ask("GET");
      this.trouble = "";
    } catch (error) {
      this.absent = !this.state && error instanceof Refusal && error.status === 404;
      this.trouble = error instanceof Error ? error.message : String(error);
    }
    this.waiting = false;
    this.took = performance.now() - this.asked;
    if (JSON.stringify([this.state, this.trouble]) !== before) this.changed.emit(undefined);
  }

  /** @param {string} name @returns {Promise<Details>} */
  details(name) {
    return this.ask("GET", { name });
  }

  /** @param {Segment} segment @returns {Promise<string>} a sentence about what was done */
  async unlink({ name, inode }) {
    return (await this.ask("DELETE", { name, inode })).message;
  }

  /** From now on ask now and then, as long as somebody can see it. */
  follow() {
    const tick = () => {
      const here = document.visibilityState === "visible";
      const panel = here && inSight(".jp-RunningSessions");
      const bar = here && inSight(".shm-status-item");
      const due = panel || this.stale ? Math.min(BAR, Math.max(this.stale ? 0 : PANEL, SHARE * this.took)) : BAR;
      const late = (panel && !this.seen) || performance.now() - this.asked > due;
      if ((panel || bar) && late && !this.waiting) void this.look();
      this.seen = panel;
    };
    window.setInterval(tick, TICK);
    document.addEventListener("visibilitychange", tick);
  }
}

/** @param {string} selector @returns {boolean} whether one of these elements has a place on the screen */
function inSight(selector) {
  return [...document.querySelectorAll(selector)].some((one) => one.getClientRects().length);
}
