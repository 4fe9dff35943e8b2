// The section of the Running panel.

const ICON = `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24"><path class="jp-icon3" fill="#616161" fill-rule="evenodd" d="M3 5h18v10h-2v4h-2v-4h-2v4h-2v-4h-2v4H9v-4H7v4H5v-4H3zm3 3v4h4V8zm8 0v4h4V8z"/></svg>`;

/** @param {import("./memory.js").Segment} segment @param {string} folder @returns {string} what the hint of a row says */
function hint(segment, folder) {
  return [
    `${segment.name}: ${segment.kind} ${segment.type}, ${segment.size}`, `Made by ${segment.owner}`,
    segment.origin && `Snapshot of ${segment.origin}`,
    segment.count ? `Attached by ${segment.holders.join(", ")}` : "Attached by nobody",
    segment.lifetime === "keep" ? "Kept until somebody unlinks it" : "", `In ${folder}`,
  ].filter(Boolean).join("\n");
}

/**
 * @param {import("./plugin.js").Modules} modules
 * @param {import("./memory.js").Memory} memory
 * @param {import("./questions.js").Questions} questions
 * @param {string} version of the application
 * @returns {object} what the Running panel asks for
 */
export function section({ components, react }, memory, questions, version) {
  const icon = new components.LabIcon({ name: "shmkernel:memory", svgstr: ICON });
  const folder = memory.state?.folder ?? "";
  /** @type {import("./memory.js").Segment[] | null} */
  let named = null; // the segments that the question about all has named

  /** @param {string} part @param {any[]} content the panel's search wants the children of an element as a list */
  const span = (part, ...content) => react.createElement("span", { className: `shm-item-${part}` }, ...content, "");

  /** @param {import("./memory.js").Segment} segment */
  const item = (segment) => ({
    className: "shm-item",
    context: segment.name,
    icon: () => icon,
    label: () => span(
      "row", span("name", segment.name), span("size", segment.size),
      span(
        "facts", span("what", span("kind", segment.state || segment.kind), span("type", segment.type)),
        span("people", `${segment.origin ? `snapshot of ${segment.origin}, ` : ""}by ${segment.owner}, attached by ${segment.people || "nobody"}`),
      ),
    ),
    labelTitle: () => hint(segment, folder),
    open: () => void questions.show(segment),
    shutdown: () => void questions.unlink(segment),
  });

  return {
    name: folder === "/dev/shm" || !folder ? "Shared Memory" : "Shared Memory (SHMKERNEL_DIR)", // the panel shows capitals: no place for a path
    supportsMultipleViews: false,
    running: () => memory.segments.map(item),
    refreshRunning: () => void memory.look(),
    runningChanged: memory.changed,
    shutdownLabel: "Unlink…",
    shutdownAllLabel: "Unlink All",
    // JupyterLab 4.2 and Notebook 7.2 take only a text. Then `named` is null, and our own question follows.
    shutdownAllConfirmationText: /^(4|7)\.[0-2]\./.test(version) ? "A question that names all segments follows." : () => {
      named = memory.segments;
      return questions.aboutAll(named);
    },
    shutdownAll: () => {
      void (named ? questions.unlinkAll(named) : questions.askAll(memory.segments));
      named = null;
    },
  };
}
