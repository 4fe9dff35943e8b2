// The widget's own script: it loads the monitor, which the kernel sends as text, and shows a table where no kernel is.
// JupyterLab can save a widget's state in the notebook: this script and the table of that moment, not the monitor.

/** @typedef {{initialize: (context: any) => () => void, render: (context: any) => () => void}} Monitor */
/** @typedef {{lines: string[][], below: string[]}} Saved the table, whose first line has the titles, and what is below */

/** @param {any} model @returns {Promise<Monitor | null>} null where no kernel sent the monitor */
async function load(model) {
  const code = model.get("code");
  if (!code) return null;
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const found = await import(url);
  URL.revokeObjectURL(url);
  const style = document.getElementById("shm-style") ?? document.head.appendChild(document.createElement("style"));
  style.id = "shm-style";
  style.textContent = model.get("style");
  model.set("code", ""); // not sent to the kernel: so that neither is saved
  model.set("style", "");
  return found.default();
}

/** @param {Saved} saved @returns {HTMLElement} */
function table({ lines, below }) {
  const found = document.createElement("div");
  found.className = "shm-saved";
  const body = document.createElement("table");
  lines.forEach((texts, at) => {
    const line = body.insertRow();
    for (const text of texts) {
      const cell = line.appendChild(document.createElement(at ? "td" : "th"));
      cell.textContent = text;
      cell.style.textAlign = "left";
    }
  });
  if (lines.length) found.append(body);
  for (const text of below) found.appendChild(document.createElement("div")).textContent = text;
  return found;
}

/** Called once for each model. */
export default () => {
  /** @type {Monitor | null} */ let monitor = null;
  return {
    /** @param {{model: any}} context */
    async initialize(context) {
      monitor = await load(context.model);
      return monitor?.initialize(context);
    },
    /** @param {{model: any, el: HTMLElement}} context */
    render(context) {
      if (monitor) return monitor.render(context);
      context.el.append(table(context.model.get("table")));
      return () => {};
    },
  };
};
