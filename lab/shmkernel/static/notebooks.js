// Open the notebook that made a segment: the monitor, which knows no application, asks by an event.

/** @param {import("./plugin.js").Modules} modules @param {any} app */
export function openNotebooks({ apputils }, app) {
  document.body.dataset.shmNotebooks = "yes"; // the monitor shows its links
  document.addEventListener("shm-open", (event) => {
    const name = String(/** @type {CustomEvent} */ (event).detail);
    const running = [...app.serviceManager.sessions.running()].map((/** @type {any} */ session) => String(session.path));
    const paths = [...new Set(running.filter((path) => path.split("/").pop() === name))];
    if (paths.length === 1) return void app.commands.execute("docmanager:open", { path: paths[0] });
    const why = paths.length ? `Several have this name: ${paths.join(", ")}` : "This server runs no kernel for it";
    apputils.Notification.info(`${name}: ${why}.`, { autoClose: 5000 });
  });
}
