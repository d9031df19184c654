// The heap map: pages drawn row by row in the order of their addresses.

const STATES = {
  L: { name: "live", style: "malloc_live", text: "carries live memory only" },
  P: { name: "pinned", style: "pinned", text: "free memory beside a live block" },
  T: { name: "trimmable", style: "trimmable", text: "wholly free: malloc_trim(0) returns it" },
  A: { name: "arena top", style: "arena_top", text: "free end of a thread's heap" },
  ".": { name: "not resident", style: "absent", text: "no memory behind it" },
};
const PER_ROW = 128;
const MOST_CELLS = 65536;

function cellRuns(cells) {
  const runs = [];
  let at = 0;
  for (const [, state, digits] of cells.matchAll(/([LPTA.])([0-9]+)/g)) {
    const length = Math.min(Number(digits), MOST_CELLS - at);
    if (length > 0) runs.push({ state, at, length });
    at += Math.max(length, 0);
  }
  return { runs, cells: at };
}

// A run of cells as rectangles of a path: one for what fits each row.
function runPath({ at, length }) {
  const parts = [];
  for (let from = at, left = length; left > 0; ) {
    const column = from % PER_ROW;
    const here = Math.min(left, PER_ROW - column);
    parts.push(`M${column} ${Math.floor(from / PER_ROW)}h${here}v1h-${here}z`);
    from += here;
    left -= here;
  }
  return parts.join("");
}

function address(number) {
  return `0x${number.toString(16)}`;
}

function drawHeap([name, start, pageSize, pagesPerCell, cells]) {
  const { runs, cells: count } = cellRuns(cells);
  const rows = Math.max(Math.ceil(count / PER_ROW), 1);
  const paths = {};
  const totals = {};
  for (const run of runs) {
    (paths[run.state] ||= []).push(runPath(run));
    totals[run.state] = (totals[run.state] || 0) + run.length;
  }
  const cellSize = pageSize * pagesPerCell;
  const legend = Object.entries(STATES).filter(([state]) => totals[state]);
  // Sizes are said only where each page has a cell of its own: a cell of several pages shows what most of them are.
  const amount = (state) => {
    const found = totals[state];
    if (pagesPerCell !== 1) return `${found.toLocaleString("en")} of ${count.toLocaleString("en")} cells`;
    return `${found === 1 ? "1 page" : `${found.toLocaleString("en")} pages`}, ${formatSize(found * cellSize)}`;
  };
  const summary = legend.map(([state, { name: word }]) => `${word} ${amount(state)}`).join("; ");
  const readout = el("p", { class: "muted readout mono", "aria-hidden": "true" });
  const used = Math.min(count, PER_ROW);
  const chart = svg(
    "svg",
    {
      class: "heap", viewBox: `0 0 ${used || 1} ${rows}`, role: "img", "aria-label": `heap ${name}: ${summary}`,
      "shape-rendering": "crispEdges",
      onpointermove: (event) => {
        const box = chart.getBoundingClientRect();
        const column = Math.floor(((event.clientX - box.left) / box.width) * used);
        const cell = Math.floor(((event.clientY - box.top) / box.height) * rows) * PER_ROW + column;
        const run = runs.find((each) => each.at <= cell && cell < each.at + each.length);
        readout.textContent = run ? `${address(start + cell * cellSize)}: ${STATES[run.state].name} (${STATES[run.state].text})` : "";
      },
    },
    legend.map(([state, { style }]) => svg("path", { class: style, d: paths[state].join("") })),
  );
  chart.style.maxWidth = `${used * 7}px`;
  const page = formatSize(cellSize);
  const unit = pagesPerCell === 1 ? `a cell is one page of ${page}` : `a cell is ${pagesPerCell} pages (${page}), drawn as what most of them are`;
  return el(
    "section",
    { class: "full" },
    el("h3", {}, `Heap map: ${name}`),
    el("p", { class: "muted" }, `from ${address(start)} on; ${unit}${count >= MOST_CELLS ? `; only the first ${MOST_CELLS} cells are drawn` : ""}`),
    chart,
    readout,
    el(
      "ul",
      { class: "legend" },
      legend.map(([state, { name: word, style, text }]) =>
        el("li", {}, swatch(style), `${word}: ${amount(state)} (${text})`),
      ),
    ),
  );
}

function drawPins(pins) {
  return el(
    "section",
    {},
    el("h3", {}, "Blocks that pin pages, by size"),
    plainTable(["block size", "live blocks"], pins.map(([size, blocks]) => ({ cells: [size, blocks.toLocaleString("en")] })), [1]),
  );
}
