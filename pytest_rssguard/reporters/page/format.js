// Sizes as pytest_rssguard/units.py writes them, and elements made without any markup in strings.

const UNITS = ["KiB", "MiB", "GiB", "TiB", "PiB"];

// Python rounds exact halves to even, toFixed rounds them up.
function fixed(value, digits) {
  const power = 10 ** digits;
  const scaled = value * power;
  const floor = Math.floor(scaled);
  return (scaled - floor === 0.5 && floor % 2 === 0 ? floor / power : value).toFixed(digits);
}

function formatSize(size) {
  let scaled = Math.abs(size);
  if (scaled < 1024) return `${size} B`;
  let exponent = 0;
  while (exponent < UNITS.length && (exponent === 0 || scaled >= 999.5)) {
    scaled /= 1024;
    exponent += 1;
  }
  const digits = scaled < 0.9995 ? 3 : scaled < 9.995 ? 2 : scaled < 99.95 ? 1 : 0;
  return `${size < 0 ? "-" : ""}${fixed(scaled, digits)} ${UNITS[exponent - 1]}`;
}

function formatChange(size) {
  return size >= 0 ? `+${formatSize(size)}` : formatSize(size);
}

function formatSeconds(seconds) {
  return seconds < 1 ? `${(seconds * 1000).toPrecision(seconds < 0.001 ? 1 : 3).replace(/\.0+$/, "")} ms` : `${seconds.toPrecision(3)} s`;
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function swatch(name) {
  return svg("svg", { class: "swatch", viewBox: "0 0 1 1", "aria-hidden": "true" }, svg("rect", { width: 1, height: 1, class: name }));
}

// A table from plain rows: the first cell of each is its header, cells of `sizes` columns are right-aligned.
function plainTable(heads, rows, sizes, caption) {
  const kind = (at) => (sizes.includes(at) ? "size" : undefined);
  return el(
    "table",
    caption ? { "aria-label": caption } : {},
    el("thead", {}, el("tr", {}, heads.map((head, at) => el("th", { scope: "col", class: kind(at) }, head)))),
    el(
      "tbody",
      {},
      rows.map(({ cells, total }) =>
        el(
          "tr",
          { class: total && "total" },
          cells.map((cell, at) => (at ? el("td", { class: kind(at) }, cell) : el("th", { scope: "row" }, cell))),
        ),
      ),
    ),
  );
}
