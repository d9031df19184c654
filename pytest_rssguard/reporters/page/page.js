// Reads the data that the page carries and puts the parts together.

function readData() {
  const data = JSON.parse(document.getElementById("rssguard-data").textContent);
  const rank = new Map(data.worst_first.map((at, place) => [at, place]));
  data.tests = data.tests.map((values, at) => {
    const test = Object.fromEntries(data.columns.map((name, column) => [name, values[column]]));
    const detail = data.details[at] || {};
    test.at = at;
    test.rank = rank.get(at);
    test.outcome = data.outcomes[test.outcome];
    test.regression = Boolean(detail.regression);
    test.haystack = [test.nodeid, detail.message, detail.reason].filter(Boolean).join("\n").toLowerCase();
    return test;
  });
  return data;
}

function makeFilters(data, table) {
  const place = document.getElementById("outcomes");
  const boxes = new Map();
  for (const outcome of data.outcomes) {
    const count = data.tests.filter((test) => test.outcome === outcome).length;
    if (!count) continue;
    const box = el("input", {
      type: "checkbox", checked: true, value: outcome,
      onchange: () => {
        table.state.hidden[box.checked ? "delete" : "add"](outcome);
        table.render();
      },
    });
    boxes.set(outcome, box);
    place.append(el("label", {}, box, ` ${outcome} (${count.toLocaleString("en")})`));
  }
  const query = document.getElementById("query");
  query.addEventListener("input", () => {
    table.state.query = query.value;
    table.render();
  });
  document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("open-failing").addEventListener("click", () => {
    const failing = table.state.list.filter((test) => !["returned", "not judged"].includes(test.outcome) || test.regression);
    for (const test of failing.slice(0, 100)) table.state.open.add(test.at);
    table.render();
  });
  document.getElementById("close-all").addEventListener("click", () => {
    table.state.open.clear();
    table.render();
  });
  document.getElementById("controls").hidden = false;
  return (test) => {
    const box = boxes.get(test.outcome);
    if (!box.checked || (query.value && !test.haystack.includes(query.value.trim().toLowerCase()))) {
      box.checked = true;
      query.value = "";
    }
    table.reveal(test);
  };
}

function makeWords(data) {
  document.getElementById("words").append(
    plainTable(
      ["account", "group", "what it is"],
      data.accounts.map(({ name, group, meaning }) => ({ cells: [[swatch(name), name], group === name ? "" : group, meaning] })),
      [],
    ),
    el("p", {}, "Leaked: held growth over the tolerance, and the allocators' own counters grew by as much. Retained: freed by the program, still resident. Grew: neither explains it. Hidden: leaked into memory that was resident before. All sizes are resident bytes."),
  );
  const word = (value) => {
    if (Array.isArray(value)) return value.map(word).join(", ");
    if (value && typeof value === "object") return Object.entries(value).map(([name, inner]) => `${name}: ${word(inner)}`).join(", ");
    return value === true ? "yes" : value === false ? "no" : value === null ? "not known" : String(value);
  };
  const rows = Object.entries(data.environment).map(([name, value]) => ({ cells: [name, word(value)] }));
  document.getElementById("environment").append(plainTable(["fact", "value"], rows, []));
}

const data = readData();
makeWords(data);
if (data.tests.length) {
  const table = makeTable(data);
  table.render();
  const open = makeFilters(data, table);
  drawTimeline(data.tests, open);
  document.getElementById("bars-legend").textContent =
    "Each bar of accounts has its own scale: orange is held, blue and violet are retained, green is mapped files, grey is unexplained; thin line: zero, thick line: the tolerance.";
  const wanted = location.hash.startsWith("#test=") && decodeURIComponent(location.hash.slice(6));
  const test = wanted && data.tests.find((each) => each.nodeid === wanted);
  if (test) open(test);
} else {
  document.getElementById("status").textContent = "No test was measured: mark one with @pytest.mark.rss_returns.";
}
