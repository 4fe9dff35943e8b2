// The dialogs: all details of a segment, the question before it is unlinked, and what went wrong.
import { Refusal } from "./memory.js";

/** @typedef {import("./memory.js").Segment} Segment */

/** @param {Segment[]} segments @returns {string} who keeps their memory */
function keepers(segments) {
  const holders = [...new Set(segments.flatMap((one) => one.holders))];
  const more = segments.length === 1 ? segments[0].count - holders.length : 0;
  const others = [...(more > 0 ? [`${more} more`] : []), ...(segments.some((one) => one.elsewhere) ? ["processes in another container"] : [])];
  const all = [...holders, ...others];
  const [its, it] = segments.length === 1 ? ["its", "has it"] : ["their", "has one of them"];
  return all.length ? `These keep ${its} memory until they let go: ${all.join(", ")}.` : `No process ${it} attached, so ${its} memory is freed.`;
}

export class Questions {
  /** @param {import("./plugin.js").Modules} modules @param {import("./memory.js").Memory} memory */
  constructor({ apputils, widgets }, memory) {
    this.apputils = apputils;
    this.widgets = widgets;
    this.memory = memory;
  }

  /** @param {Segment} segment show all details */
  async show(segment) {
    const details = await this.now(segment);
    if (!details) return;
    const { Dialog, showDialog, Clipboard } = this.apputils;
    const line = `%shm_attach ${/^[A-Za-z_]\w*$/.test(details.name) ? details.name : `${details.name} --as NAME`}`;
    const body = new this.widgets.Widget();
    body.addClass("shm-details");
    const table = document.createElement("table");
    for (const [title, text] of [...details.facts, ["in a notebook", line]]) {
      const row = table.insertRow();
      const head = row.appendChild(document.createElement("th"));
      head.scope = "row";
      head.textContent = title;
      row.insertCell().textContent = text;
    }
    body.node.append(table);
    const buttons = [
      Dialog.warnButton({ label: "Unlink…", caption: "Remove its name for everybody" }),
      Dialog.cancelButton({ label: "Close" }),
      Dialog.okButton({ label: "Copy Attach Line", caption: "To paste into a notebook" }),
    ];
    const { button } = await showDialog({ title: details.name, body, buttons });
    if (button.label === "Unlink…") await this.unlink(segment);
    if (button.label === "Copy Attach Line") Clipboard.copyToSystem(line);
  }

  /** @param {Segment} segment ask, and unlink it */
  async unlink(segment) {
    const details = await this.now(segment);
    if (!details) return;
    const body = `Its name goes from ${details.folder}, for every notebook. ${keepers([details])}`;
    if (await this.agreed(`Unlink ${details.name}?`, body)) await this.unlinkAll([details]);
  }

  /** @param {Segment[]} segments ask, and unlink them */
  async askAll(segments) {
    if (await this.agreed("Unlink All?", this.aboutAll(segments))) await this.unlinkAll(segments);
  }

  /** @param {string} title @param {string} body @returns {Promise<boolean>} whether the user agrees; Enter says no */
  async agreed(title, body) {
    const { Dialog, showDialog } = this.apputils;
    const buttons = [Dialog.cancelButton(), Dialog.warnButton({ label: "Unlink" })];
    return (await showDialog({ title, body, buttons, defaultButton: 0 })).button.accept;
  }

  /** @param {Segment[]} segments @returns {string} the question before all of them are unlinked */
  aboutAll(segments) {
    const names = segments.map((one) => one.name).join(", ");
    const { folder, size } = this.memory.state ?? {};
    return `Their names go from ${folder}, for every notebook: ${names} (${size}). ${keepers(segments)}`;
  }

  /** @param {Segment[]} segments unlink them, and tell what happened */
  async unlinkAll(segments) {
    const done = [], failed = [];
    for (const segment of segments) {
      try {
        done.push(await this.memory.unlink(segment));
      } catch (error) {
        const gone = segments.length > 1 && error instanceof Refusal && error.status === 404;
        if (!gone) failed.push(error instanceof Error ? error.message : String(error));
      }
    }
    await this.memory.look();
    const { Notification } = this.apputils;
    if (done.length) Notification.info(done.length === 1 ? done[0] : `${done.length} segments: unlinked`, { autoClose: 5000 });
    if (failed.length) await this.tell(failed.join("\n"));
  }

  /** @param {Segment} segment @returns {Promise<import("./memory.js").Details | null>} it as it is now, if it is there */
  async now(segment) {
    try {
      return await this.memory.details(segment.name);
    } catch (error) {
      await this.memory.look();
      await this.tell(error instanceof Error ? error.message : String(error));
      return null;
    }
  }

  /** @param {string} text say what went wrong */
  tell(text) {
    return this.apputils.showErrorMessage("Shared Memory", text);
  }
}
