// The stacked bar of a test's accounts, and the step line of RSS over the session.

// One bar has one scale of its own: from what was given back (left of zero) to the larger of growth and tolerance.
function accountBar(accounts, values, tolerance, wide) {
  const shown = accounts.map((account, at) => ({ account, size: values[at] || 0 })).filter(({ size }) => size);
  const gained = shown.reduce((sum, { size }) => sum + Math.max(size, 0), 0);
  const lost = shown.reduce((sum, { size }) => sum - Math.min(size, 0), 0);
  const right = Math.max(gained, tolerance || 0, 1) * 1.04;
  const width = 1000;
  const x = (size) => ((size + lost) / (right + lost)) * width;
  let up = 0;
  let down = 0;
  const bars = shown.map(({ account, size }) => {
    const start = size > 0 ? up : down + size;
    if (size > 0) up += size;
    else down += size;
    return svg(
      "rect",
      { class: account.name, x: x(start), width: x(start + Math.abs(size)) - x(start), y: 3, height: 10 },
      svg("title", {}, `${account.name} ${formatChange(size)}`),
    );
  });
  const label = shown.length ? shown.map(({ account, size }) => `${account.name} ${formatChange(size)}`).join(", ") : "no change";
  return svg(
    "svg",
    {
      class: wide ? "bar wide" : "bar", viewBox: `0 0 ${width} 16`, preserveAspectRatio: "none", role: "img",
      "aria-label": label + (tolerance ? `; tolerance ${formatSize(tolerance)}` : ""),
    },
    bars,
    svg("line", { class: "zero", x1: x(0), x2: x(0), y1: 1, y2: 15 }),
    tolerance && svg("line", { class: "halo", x1: x(tolerance), x2: x(tolerance), y1: 0, y2: 16 }),
    tolerance && svg("line", { class: "tick", x1: x(tolerance), x2: x(tolerance), y1: 0, y2: 16 }, svg("title", {}, `tolerance ${formatSize(tolerance)}`)),
  );
}

const SHAPES = {
  leaked: (x, y) => `M${x} ${y - 5}l5 9h-10z`,
  retained: (x, y) => `M${x - 4} ${y - 4}h8v8h-8z`,
  grew: (x, y) => `M${x} ${y - 6}l5 6l-5 6l-5 -6z`,
  unmeasurable: (x, y) => `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z`,
};

// Tests without readings (their body failed) leave a gap in the line.
function lanePaths(tests, x, y, bottom) {
  const line = [];
  const guarded = [];
  const marks = {};
  let pen = false;
  tests.forEach((test, at) => {
    if (test.judged) guarded.push(`M${x(at + 0.5)} ${bottom}v5`);
    if (!test.rss_before || !test.rss_settled) {
      pen = false;
      return;
    }
    line.push(`${pen ? "L" : "M"}${x(at)} ${y(test.rss_before)}H${x(at + 0.5)}V${y(test.rss_settled)}H${x(at + 1)}`);
    pen = true;
    const shape = SHAPES[test.outcome];
    if (shape) (marks[test.outcome] ||= []).push(shape(Number(x(at + 0.5)), Number(y(test.rss_settled))));
  });
  return { line: line.join(""), guarded: guarded.join(""), marks };
}

function drawLane(name, tests, low, high, width, open) {
  const height = 132;
  const left = 66;
  const bottom = height - 12;
  const x = (at) => (left + (at / tests.length) * (width - left - 6)).toFixed(1);
  const y = (size) => (bottom - ((size - low) / (high - low || 1)) * (bottom - 12)).toFixed(1);
  const { line, guarded, marks } = lanePaths(tests, x, y, bottom + 2);
  const readings = tests.filter((test) => test.rss_before);
  const top = readings.reduce((best, test) => (test.rss_settled > (best ? best.rss_settled : 0) ? test : best), null);
  const label = readings.length
    ? `RSS over ${tests.length} tests${name ? ` of worker ${name}` : ""}: ${formatSize(readings[0].rss_before)} before the first, ` +
      `${formatSize(readings[readings.length - 1].rss_settled)} after the last, highest ${formatSize(top.rss_settled)} after ${top.nodeid}`
    : `no readings${name ? ` of worker ${name}` : ""}`;
  const readout = el("p", { class: "muted readout", "aria-hidden": "true" });
  const find = (event) => {
    const box = chart.getBoundingClientRect();
    const at = (((event.clientX - box.left) / box.width) * width - left) / (width - left - 6);
    return tests[Math.min(Math.max(Math.floor(at * tests.length), 0), tests.length - 1)];
  };
  const chart = svg(
    "svg",
    {
      class: "lane", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label,
      onpointermove: (event) => {
        const test = find(event);
        readout.textContent = test.rss_before
          ? `${test.nodeid}: ${formatSize(test.rss_before)} to ${formatSize(test.rss_settled)}, ${test.outcome}`
          : `${test.nodeid}: ${test.outcome}`;
      },
      onclick: (event) => open(find(event)),
    },
    [low, (low + high) / 2, high].map((size) => [
      svg("line", { class: "grid", x1: left, x2: width - 6, y1: y(size), y2: y(size) }),
      svg("text", { x: left - 6, y: Number(y(size)) + 4, "text-anchor": "end" }, formatSize(Math.round(size))),
    ]).flat(),
    svg("path", { class: "guarded", d: guarded }),
    svg("path", { class: "rss", d: line }),
    Object.entries(marks).map(([outcome, shapes]) => svg("path", { class: `mark ${outcome}`, d: shapes.join("") })),
  );
  return [name && el("h3", {}, `worker ${name}`), chart, readout];
}

function drawTimeline(tests, open) {
  const lanes = new Map();
  for (const test of tests) {
    const worker = test.worker || "";
    if (!lanes.has(worker)) lanes.set(worker, []);
    lanes.get(worker).push(test);
  }
  let low = Infinity;
  let high = 0;
  for (const test of tests) {
    if (!test.rss_before) continue;
    low = Math.min(low, test.rss_before, test.rss_settled);
    high = Math.max(high, test.rss_before, test.rss_settled);
  }
  if (!high) return;
  const margin = Math.max((high - low) * 0.05, 1024);
  document.getElementById("timeline").hidden = false;
  const place = document.getElementById("lanes");
  const names = [...lanes.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  let drawn = 0;
  const draw = () => {
    const width = Math.max(place.clientWidth, 300);
    if (width === drawn) return;
    drawn = width;
    place.replaceChildren(
      ...names.flatMap((name) => drawLane(name, lanes.get(name), Math.max(low - margin, 0), high + margin, width, open)).filter(Boolean),
    );
  };
  draw();
  new ResizeObserver(draw).observe(place);
  document.getElementById("timeline-legend").replaceChildren(
    "A step is one test, in the order in which tests ended: its RSS before the body, then settled after it. Ticks below the line: guarded tests. ",
    ...Object.entries(SHAPES).map(([outcome, shape]) =>
      el("span", { class: "key" }, svg("svg", { class: "swatch", viewBox: "-6 -7 12 14", "aria-hidden": "true" }, svg("path", { class: `mark ${outcome}`, d: shape(0, 0) })), outcome),
    ),
    el("span", { class: "screen" }, "Click a step to open its test."),
  );
}
