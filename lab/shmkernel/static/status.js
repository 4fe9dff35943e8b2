// The item of JupyterLab's status bar: how much is shared. A click shows the section of the Running panel.

const PANEL = "jp-running-sessions";

/**
 * @param {import("./plugin.js").Modules} modules
 * @param {import("./memory.js").Memory} memory
 * @param {any} app
 * @returns {object} a widget
 */
export function statusItem({ widgets }, memory, app) {
  const node = document.createElement("button");
  node.type = "button";
  node.addEventListener("click", () => open(app));
  const item = new widgets.Widget({ node });
  item.addClass("shm-status-item");
  const update = () => {
    const { state, trouble } = memory;
    node.textContent = `shm ${state?.size ?? "?"}${state?.short ? `, ${state.free} free` : ""}`;
    node.title = [state && `Shared memory: ${state.total}`, trouble].filter(Boolean).join("\n");
  };
  memory.changed.connect(update);
  update();
  return item;
}

/** @param {any} app show the panel, and in it our section */
function open(app) {
  app.shell.activateById(PANEL);
  const titles = document.querySelectorAll(`#${PANEL} .lm-AccordionPanel-title`);
  const ours = [...titles].find((one) => one.textContent?.startsWith("Shared Memory"));
  if (!ours) return;
  if (!ours.classList.contains("lm-mod-expanded")) /** @type {HTMLElement} */ (ours).click();
  ours.scrollIntoView({ block: "nearest" });
}
