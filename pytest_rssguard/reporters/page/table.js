// The table of tests: sorted, filtered and searched as data; rows are made when they are needed.

const PORTION = 200;

function tableColumns(data) {
  const size = (name) => ({ key: name, name, style: "size", text: (test) => (test.rss_before ? formatChange(test[name]) : "–"), value: (test) => (test.rss_before ? test[name] : -Infinity) });
  const columns = [
    { key: "verdict", name: "verdict", cell: verdictCell, value: (test) => test.rank, first: 1 },
    { key: "test", name: "test", header: true, value: (test) => test.nodeid, first: 1 },
    { key: "accounts", name: "accounts", cell: (test) => test.rss_before > 0 && accountBar(data.accounts, test.accounts, test.judged ? test.tolerance : 0) },
    size("growth"),
    { ...size("held"), style: "size middling" },
    { ...size("retained"), style: "size middling" },
    { key: "tolerance", name: "tolerance", style: "size minor", text: (test) => (test.judged ? formatSize(test.tolerance) : "–"), value: (test) => (test.judged ? test.tolerance : -1) },
    { key: "seconds", name: "time", style: "size minor", text: (test) => formatSeconds(test.seconds), value: (test) => test.seconds },
    { key: "order", name: "order", style: "size minor", text: (test) => String(test.at + 1), value: (test) => test.at, first: 1 },
  ];
  if (Object.values(data.details).some((detail) => detail.regression)) {
    const baseline = (test) => data.details[test.at]?.regression?.baseline;
    columns.splice(7, 0, { key: "baseline", name: "baseline", style: "size middling", text: (test) => (baseline(test) === undefined ? "–" : formatSize(baseline(test))), value: (test) => baseline(test) ?? -1 });
  }
  if (data.tests.some((test) => test.worker)) {
    columns.push({ key: "worker", name: "worker", style: "minor", text: (test) => test.worker || "", value: (test) => test.worker || "", first: 1 });
  }
  return columns;
}

// A name may break behind "/" and "::" before it breaks anywhere.
function breakable(name) {
  return name.split(/(?<=::|\/)/).flatMap((part) => [part, el("wbr")]);
}

function verdictCell(test) {
  const extra = [test.masked && "hidden", test.regression && "over its baseline", !test.judged && test.outcome !== "not judged" && "not judged"].filter(Boolean);
  return [el("span", { class: `verdict ${test.outcome.replace(" ", "-")}` }, test.outcome), extra.length > 0 && el("span", { class: "extra" }, extra.join(", "))];
}

function makeTable(data) {
  const table = document.getElementById("tests");
  const [head, body] = [table.tHead, table.tBodies[0]];
  const more = document.getElementById("more");
  const status = document.getElementById("status");
  const columns = tableColumns(data);
  const state = { key: "verdict", direction: 1, hidden: new Set(), query: "", shown: PORTION, open: new Set(), list: [] };
  const rows = new Map();

  function comparison() {
    const { value } = columns.find((column) => column.key === state.key);
    return (a, b) => {
      const [x, y] = [value(a), value(b)];
      return (x < y ? -1 : x > y ? 1 : 0) * state.direction || a.rank - b.rank;
    };
  }

  function rowOf(test) {
    if (rows.has(test.at)) return rows.get(test.at);
    const id = `detail-${test.at}`;
    const toggle = el("button", { type: "button", class: "toggle mono", "aria-expanded": "false", "aria-controls": id, onclick: () => setOpen(test, !state.open.has(test.at)) }, breakable(test.nodeid));
    const cells = columns.map((column) =>
      column.header
        ? el("th", { scope: "row" }, toggle)
        : el("td", { class: column.style }, column.cell ? column.cell(test) || "" : column.text(test)),
    );
    const row = { main: el("tr", {}, cells), toggle, detail: null, id };
    rows.set(test.at, row);
    return row;
  }

  function elements(test) {
    const row = rowOf(test);
    const open = state.open.has(test.at);
    row.toggle.setAttribute("aria-expanded", String(open));
    row.main.classList.toggle("open", open);
    if (!open) return [row.main];
    row.detail ||= el("tr", { class: "detail", id: row.id }, el("td", { colspan: columns.length }, drawDetail(test, data)));
    return [row.main, row.detail];
  }

  function setOpen(test, open) {
    state.open[open ? "add" : "delete"](test.at);
    const row = rowOf(test);
    const made = elements(test);
    if (open) row.main.after(...made.slice(1));
    else row.detail?.remove();
    history.replaceState(null, "", open ? `#test=${encodeURIComponent(test.nodeid)}` : "#");
  }

  function showMore() {
    const from = body.rows.length ? state.shown : 0;
    if (from) state.shown += PORTION;
    body.append(...state.list.slice(from, state.shown).flatMap(elements));
    const left = state.list.length - state.shown;
    more.hidden = left <= 0;
    more.textContent = `Show ${Math.min(left, PORTION)} more of ${left}`;
  }

  function render() {
    const query = state.query.trim().toLowerCase();
    state.list = data.tests.filter((test) => !state.hidden.has(test.outcome) && (!query || test.haystack.includes(query))).sort(comparison());
    state.shown = PORTION;
    body.replaceChildren();
    showMore();
    const [found, all] = [state.list.length, data.tests.length];
    status.textContent = found === all ? `${all.toLocaleString("en")} tests` : `${found.toLocaleString("en")} of ${all.toLocaleString("en")} tests`;
    for (const th of head.rows[0].cells) {
      if (th.dataset.key) th.setAttribute("aria-sort", th.dataset.key !== state.key ? "none" : state.direction > 0 ? "ascending" : "descending");
    }
  }

  function sortBy(column) {
    state.direction = state.key === column.key ? -state.direction : column.first || -1;
    state.key = column.key;
    render();
  }

  function reveal(test) {
    if (!state.list.includes(test)) {
      state.hidden.delete(test.outcome);
      state.query = "";
      render();
    }
    while (state.list.indexOf(test) >= state.shown) showMore();
    setOpen(test, true);
    const { toggle, main } = rowOf(test);
    main.scrollIntoView({ block: "start" });
    toggle.focus({ preventScroll: true });
  }

  head.append(
    el("tr", {}, columns.map((column) =>
      column.value
        ? el("th", { scope: "col", class: column.style, "aria-sort": "none", "data-key": column.key }, el("button", { type: "button", onclick: () => sortBy(column) }, column.name))
        : el("th", { scope: "col", class: column.style }, el("span", {}, column.name)),
    )),
  );
  more.addEventListener("click", showMore);
  table.hidden = false;
  return { state, render, reveal, setOpen };
}
