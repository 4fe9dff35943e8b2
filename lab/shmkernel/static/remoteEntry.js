// JupyterLab and Notebook run this script first. It is what a bundler would write for module federation: a container
// to which the application gives the modules that it shares, and which returns our plugin.
{
  const here = /** @type {HTMLScriptElement} */ (document.currentScript).src;
  /** @type {Record<string, Record<string, {get: () => Promise<() => any>, loaded?: unknown}>>} */
  let scope = {};

  /** @param {string} name @returns {Promise<any>} a module that the application shares: the instance that it uses */
  const take = async (name) => {
    const versions = Object.entries(scope[name] ?? {}).sort(([a], [b]) => a.localeCompare(b, undefined, { numeric: true }));
    const [, found] = versions.find(([, one]) => one.loaded) ?? versions.at(-1) ?? [];
    if (!found) throw new Error(`this application does not share ${name}`);
    return (await found.get())();
  };

  const container = {
    /** @param {typeof scope} shared */
    init(shared) {
      scope = shared;
    },
    async get() {
      const { plugin } = await import(new URL("plugin.js", here).href);
      const made = await plugin(take);
      return () => ({ __esModule: true, default: made });
    },
  };
  const all = /** @type {any} */ (window);
  all._JUPYTERLAB = { ...all._JUPYTERLAB, shmkernel: container };
}
