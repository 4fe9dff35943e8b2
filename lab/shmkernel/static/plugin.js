// Shared memory in JupyterLab and Notebook, without a kernel: a section of the Running panel, an item of the status bar,
// and the table in place of a saved monitor.
import { Memory } from "./memory.js";
import { openNotebooks } from "./notebooks.js";
import { Questions } from "./questions.js";
import { showSaved } from "./saved.js";
import { section } from "./section.js";
import { statusItem } from "./status.js";

/** The modules of the application that are needed. */
const NEEDED = /** @type {const} */ ({
  apputils: "@jupyterlab/apputils", coreutils: "@jupyterlab/coreutils", running: "@jupyterlab/running",
  services: "@jupyterlab/services", signaling: "@lumino/signaling", statusbar: "@jupyterlab/statusbar",
  components: "@jupyterlab/ui-components", widgets: "@lumino/widgets", react: "react",
});

/** @typedef {{[name in keyof typeof NEEDED]: any}} Modules */

/** @param {(name: string) => Promise<any>} take @returns {Promise<object>} */
export async function plugin(take) {
  const found = await Promise.all(Object.entries(NEEDED).map(async ([short, name]) => [short, await take(name)]));
  const modules = /** @type {Modules} */ (Object.fromEntries(found));
  return {
    id: "shmkernel:shared-memory",
    description: "Shows shared memory in the Running panel and the status bar.",
    autoStart: true,
    optional: [modules.running.IRunningSessionManagers, modules.statusbar.IStatusBar],
    activate: (/** @type {any} */ app, /** @type {any} */ managers, /** @type {any} */ bar) => {
      const memory = new Memory(modules, app.serviceManager.serverSettings);
      app.docRegistry.addWidgetExtension("Notebook", {
        createNew: (/** @type {any} */ panel) => {
          showSaved(modules, panel.content.rendermime, panel.sessionContext);
          panel.sessionContext.statusChanged.connect((/** @type {any} */ _, /** @type {string} */ status) => {
            memory.stale ||= status === "idle";
          });
        },
      });
      openNotebooks(modules, app);
      start(modules, memory, app, managers, bar); // not awaited: the application need not wait for our server
    },
  };
}

/** @param {Modules} modules @param {Memory} memory @param {any} app @param {any} managers @param {any} bar */
async function start(modules, memory, app, managers, bar) {
  await memory.look();
  if (memory.absent) {
    console.info("shmkernel: this server does not load shmkernel.server, so shared memory is not shown");
    return;
  }
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = new URL("style.css", import.meta.url).href;
  document.head.append(style);
  managers?.add(section(modules, memory, new Questions(modules, memory), app.version));
  bar?.registerStatusItem("shmkernel:shared-memory", { item: statusItem(modules, memory, app), align: "left", rank: 4 });
  memory.follow();
}
