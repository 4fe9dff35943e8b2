// The monitor's output in a notebook. It holds a widget, which needs its kernel, and the table of the moment when it was
// made. The table is shown until the widget is live: the widget of a saved notebook is "model not found".

const MONITOR = "application/vnd.shmkernel.monitor+json"; // as in shmkernel/monitor/widget.py
const WIDGET = "application/vnd.jupyter.widget-view+json";
const RANK = -20; // before widgets, which have -10

/**
 * @param {import("./plugin.js").Modules} modules
 * @param {any} registry the renderers of one notebook, among them that of its widgets
 */
export function showSaved({ widgets }, registry) {
  class Output extends widgets.Panel {
    /** @param {any} model @returns {Promise<void>} */
    async renderModel(model) {
      const shown = model.data[MONITOR]?.model_id;
      if (this.shown === shown) return;
      this.shown = shown;
      for (const one of [...this.widgets]) one.dispose();
      const table = registry.createRenderer("text/html");
      this.addWidget(table);
      await table.renderModel(model);
      if (!registry.mimeTypes.includes(WIDGET)) return;
      const live = registry.createRenderer(WIDGET);
      live.hide();
      this.addWidget(live);
      const look = () => {
        if (!live.node.querySelector(".shm-monitor, .shm-saved")) return;
        watch.disconnect();
        table.hide();
        live.show();
      };
      const watch = new MutationObserver(look);
      watch.observe(live.node, { childList: true, subtree: true });
      this.disposed.connect(() => watch.disconnect());
      await live.renderModel(model);
      look();
    }
  }
  registry.addFactory({ safe: false, mimeTypes: [MONITOR], createRenderer: () => new Output() }, RANK);
}
