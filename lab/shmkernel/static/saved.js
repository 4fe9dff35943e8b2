// The monitor's output in a notebook. It holds a widget, which needs its kernel, and the table of the moment when it was
// made. The table is shown until the widget is live: the widget of a saved notebook is "model not found".

const MONITOR = "application/vnd.shmkernel.monitor+json"; // as in shmkernel/monitor/widget.py
const WIDGET = "application/vnd.jupyter.widget-view+json";
const RANK = -20; // before widgets, which have -10

/**
 * @param {import("./plugin.js").Modules} modules
 * @param {any} registry the renderers of one notebook, among them that of its widgets
 * @param {any} session the notebook's session; widgets get their renderer only once its kernel is known
 */
export function showSaved({ widgets }, registry, session) {
  class Output extends widgets.Panel {
    /** @type {string | undefined} */ shown = undefined; // the widget
    /** @type {(() => void) | undefined} */ stop = undefined;

    /** @param {any} model @returns {Promise<void>} */
    async renderModel(model) {
      if (this.shown === model.data[MONITOR]?.model_id) return;
      this.shown = model.data[MONITOR]?.model_id;
      this.stop?.();
      for (const one of [...this.widgets]) one.dispose();
      const table = registry.createRenderer("text/html");
      this.addWidget(table);
      await table.renderModel(model);
      this.stop = this.await(model, table);
    }

    /** @param {any} model @param {any} table @returns {() => void} show the widget in place of the table, once it is live */
    await(model, table) {
      /** @type {any} */ let factory = null;
      /** @type {any} */ let live = null;
      const look = () => {
        if (!live?.node.querySelector(".shm-monitor, .shm-saved")) return;
        stop();
        table.hide();
        live.show();
      };
      const watch = new MutationObserver(look);
      const renew = () => {
        if (registry.getFactory(WIDGET) === factory) return;
        factory = registry.getFactory(WIDGET);
        live?.dispose();
        live = factory ? registry.createRenderer(WIDGET) : null;
        if (!live) return;
        live.hide();
        this.addWidget(live);
        watch.observe(live.node, { childList: true, subtree: true });
        void live.renderModel(model);
      };
      const stop = () => {
        watch.disconnect();
        session.statusChanged.disconnect(renew);
      };
      session.statusChanged.connect(renew);
      this.disposed.connect(stop);
      renew();
      return stop;
    }
  }
  registry.addFactory({ safe: false, mimeTypes: [MONITOR], createRenderer: () => new Output() }, RANK);
}
