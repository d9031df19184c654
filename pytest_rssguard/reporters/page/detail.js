// What an opened test shows.

function panel(title, ...children) {
  return el("section", {}, el("h3", {}, title), children);
}

function drawAccounts(accounts, test) {
  const rows = [];
  for (const group of ["held", "retained"]) {
    const members = accounts.map((account, at) => ({ account, size: test.accounts[at] })).filter(({ account }) => account.group === group);
    for (const { account, size } of members) {
      if (size) rows.push({ cells: [[swatch(account.name), account.name], formatChange(size), account.meaning] });
    }
    rows.push({ cells: [group, formatChange(members.reduce((sum, { size }) => sum + (size || 0), 0)), group === "held" ? "the program still has it" : "the program freed it"], total: true });
  }
  accounts.forEach((account, at) => {
    const size = test.accounts[at];
    if (account.group === account.name && (size || account.name === "unexplained")) {
      rows.push({ cells: [[swatch(account.name), account.name], formatChange(size || 0), account.meaning] });
    }
  });
  rows.push({ cells: ["growth", formatChange(test.growth), "the sum of the accounts"], total: true });
  const divided = ["trimmable", "pinned", "arena_top", "tcache"];
  const unknown = accounts
    .filter((account, at) => test.accounts[at] === null)
    .map((account) => account.name)
    .filter((name) => (test.basis === "census" ? name !== "free_heap" : !divided.includes(name)));
  return panel(
    "Accounts",
    accountBar(accounts, test.accounts, test.judged ? test.tolerance : 0, true),
    plainTable(["account", "change", "what it is"], rows, [1]),
    unknown.length > 0 && el("p", { class: "muted" }, `Not known here, in unexplained: ${unknown.join(", ")}.`),
  );
}

// before -> after the body -> garbage collection -> settled -> malloc_trim after the verdict
function fallSteps(test, detail) {
  const steps = [{ name: "before the body", level: test.rss_before }];
  if (detail.rss_untrimmed) steps.unshift({ name: "before, without our own trims", level: detail.rss_untrimmed });
  const collected = test.rss_after - test.collected;
  steps.push({ name: "the body", from: test.rss_before, to: test.rss_after });
  if (test.collected) steps.push({ name: "garbage collection", from: test.rss_after, to: collected });
  if (test.rss_settled !== collected) steps.push({ name: "settling", from: collected, to: test.rss_settled });
  steps.push({ name: "settled: judged", level: test.rss_settled });
  if (detail.released) {
    const [predicted, observed] = detail.released;
    steps.push({ name: "malloc_trim(0), after the verdict", from: test.rss_settled, to: test.rss_settled - observed, predicted });
  }
  return steps;
}

function drawFall(test, detail) {
  const steps = fallSteps(test, detail);
  const limit = test.judged ? test.rss_before + test.tolerance : null;
  const levels = steps.flatMap((step) => (step.level === undefined ? [step.from, step.to] : [step.level])).concat(limit || []);
  const least = Math.min(...levels);
  const span = Math.max(...levels) - least || 1;
  const low = Math.max(least - span * 0.12, 0);
  const x = (size) => ((size - low) / (span * 1.04 + least - low)) * 1000;
  const bar = (step) => {
    const [from, to] = step.level === undefined ? [Math.min(step.from, step.to), Math.max(step.from, step.to)] : [low, step.level];
    const style = step.level === undefined ? (step.to >= step.from ? "up" : "down") : "level";
    return svg(
      "svg",
      { class: "fall", viewBox: "0 0 1000 14", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { class: style, x: x(from), width: Math.max(x(to) - x(from), 2), y: 1, height: 12 }),
      limit && svg("line", { class: "limit", x1: x(limit), x2: x(limit), y1: 0, y2: 14 }),
    );
  };
  const rows = steps.map((step) => ({
    cells: [
      step.name,
      step.level === undefined ? formatChange(step.to - step.from) : "",
      formatSize(step.level === undefined ? step.to : step.level),
      bar(step),
    ],
  }));
  const table = plainTable(["step", "change", "RSS", ""], rows, [1, 2], "RSS step by step");
  for (const row of table.rows) row.lastChild.classList.add("stroke");
  const trim = detail.released;
  return panel(
    "RSS step by step",
    table,
    el("p", { class: "muted" }, `The bars begin at ${formatSize(Math.round(low))}.${limit ? " Dashed line: RSS before plus the tolerance." : ""}`),
    detail.rss_untrimmed &&
      el("p", { class: "muted" }, "Growth that only refills what our own trims had emptied does not count as retained: it is compared with RSS without them."),
    trim && el("p", { class: "muted" }, `malloc_trim(0) was predicted to return ${formatSize(trim[0])}; it returned ${formatSize(trim[1])}.`),
  );
}

function drawMappings(mappings) {
  const rows = mappings.map(([name, before, after]) => ({
    cells: [el("span", { class: "mono" }, name || "anonymous memory"), formatSize(before), formatSize(after), formatChange(after - before)],
  }));
  return panel("Mappings, resident bytes", plainTable(["mapping", "before", "after", "change"], rows, [1, 2, 3]));
}

function drawBlocks(blocks, accounts) {
  const rows = blocks.map(([label, outcome, growth, held, retained, values]) => ({
    cells: [label || "(no label)", outcome, formatChange(growth), formatChange(held), formatChange(retained), accountBar(accounts, values, 0)],
  }));
  return panel("Blocks", plainTable(["label", "outcome", "growth", "held", "retained", "accounts"], rows, [2, 3, 4]));
}

function drawRounds(rounds) {
  const cell = (size) => (typeof size === "number" ? formatChange(size) : "-");
  const rows = rounds.map((sizes, at) => ({ cells: [String(at + 1), ...sizes.map(cell)] }));
  return panel("Rounds", plainTable(["round", "growth", "held", "retained"], rows, [1, 2, 3]));
}

function drawFacts(test, detail) {
  const file = detail.file || test.nodeid.split("::")[0];
  return [
    test.line ? `${file}:${test.line}` : file,
    test.judged ? `tolerance ${formatSize(test.tolerance)}` : "measured, not judged",
    test.allocated !== null && `allocators' counters ${formatChange(test.allocated)}`,
    `basis: ${test.basis}`,
    test.worker && `worker ${test.worker}`,
    `measured in ${formatSeconds(test.seconds)}`,
  ].filter(Boolean).join(" · ");
}

function drawDetail(test, data) {
  const detail = data.details[test.at] || {};
  const measured = test.rss_before > 0;
  const regression = detail.regression;
  return [
    detail.message && el("p", { class: "lead" }, detail.message),
    el("p", { class: "muted" }, drawFacts(test, detail)),
    detail.reason && el("p", {}, `Reason: ${detail.reason}`),
    regression && el("p", {}, `Baseline ${formatSize(regression.baseline || 0)}, limit ${formatSize(regression.limit || 0)}.`),
    detail.hints && el("ul", {}, detail.hints.map((hint) => el("li", {}, hint))),
    el(
      "div",
      { class: "panels" },
      measured && drawAccounts(data.accounts, test),
      measured && drawFall(test, detail),
      detail.mappings && drawMappings(detail.mappings),
      detail.pins && drawPins(detail.pins),
      detail.rounds && drawRounds(detail.rounds),
      detail.blocks && drawBlocks(detail.blocks, data.accounts),
      detail.heap_map && detail.heap_map.map(drawHeap),
      detail.text && el("section", { class: "full" }, el("h3", {}, "The whole message"), el("pre", { tabindex: "0" }, detail.text.replace(/^\n+/, ""))),
    ),
  ];
}
