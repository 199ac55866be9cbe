"use strict";
// It sorts, filters and exports tables, draws charts with Plotly, and compares the experiments that the reader picks.
const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));
const make = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};
const embedded = (id) => JSON.parse(document.getElementById(id).textContent);
const { groups, compare: known } = embedded("data");
const names = known ? known.names.map(({ name }) => name) : [];
const picked = []; // experiments, in the order in which they were picked

// ---- Exports

function save(address, name) {
  make("a", { href: address, download: name }).click();
}
function saveText(text, name) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  save(address, name);
  URL.revokeObjectURL(address);
}
function exportMenu(title, name, texts, pictures = {}) {
  const told = make("span", { role: "status" });
  const button = (label, act) => {
    const made = make("button", { type: "button", textContent: label });
    made.addEventListener("click", async () => {
      told.textContent = await act().then(() => "done", (error) => `failed: ${error.message}`);
    });
    return made;
  };
  const buttons = Object.entries(texts).flatMap(([kind, text]) => [
    button(`Copy ${kind}`, () => navigator.clipboard.writeText(text())),
    button(`Save ${kind}`, async () => saveText(text(), `${name}.${kind === "LaTeX" ? "tex" : "csv"}`)),
  ]);
  for (const [kind, address] of Object.entries(pictures)) {
    buttons.push(button(`Save ${kind}`, async () => save(await address(), `${name}.${kind.toLowerCase()}`)));
  }
  return make("details", { className: "take" }, make("summary", { ariaLabel: `Export ${title}` }, "Export"), ...buttons, told);
}
const csv = (rows) =>
  rows.map((row) => row.map((cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)).join(",") + "\n").join("");
const TEX = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "ℓ": "$\\ell$", "∞": "$\\infty$", "±": "$\\pm$", "ε": "$\\epsilon$", "β": "$\\beta$", "γ": "$\\gamma$" };
const tex = (text) => text.replace(/[\\~^ℓ∞±εβγ]|[&%$#_{}]/g, (sign) => TEX[sign] ?? `\\${sign}`);
function latex([head, ...rows]) {
  const lines = [head, ...rows].map((row) => `${row.map(tex).join(" & ")} \\\\`);
  lines.splice(1, 0, "\\midrule");
  return [`\\begin{tabular}{l${"r".repeat(head.length - 1)}}`, "\\toprule", ...lines, "\\bottomrule", "\\end{tabular}", ""].join("\n");
}
const slug = (text) => text.toLowerCase().replace(/[^a-z0-9]+/g, "_").replace(/^_|_$/g, "");

// ---- Tables

const experimentOf = (row) => row.querySelector("th a[href^='#experiment-']")?.hash.slice("#experiment-".length);
function value(row, column) {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
}
function order(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return String(one).localeCompare(String(other), "en", { numeric: true });
}
function sort(table, header, column) {
  const rows = Array.from(table.tBodies[0].rows);
  const largestFirst = rows.some((row) => "value" in row.cells[column].dataset);
  const turns = largestFirst ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
  const turn = turns[(turns.indexOf(header.ariaSort) + 1) % turns.length];
  for (const other of all("[aria-sort]", table.tHead)) other.ariaSort = "none";
  header.ariaSort = turn;
  const missing = (row) => "missing" in row.cells[column].dataset;
  rows.sort((one, other) => {
    if (turn === "none") return one.dataset.place - other.dataset.place;
    // What is not measured comes last, whatever the order.
    if (missing(one) || missing(other)) return missing(one) - missing(other);
    return (turn === "descending" ? -1 : 1) * order(value(one, column), value(other, column));
  });
  table.tBodies[0].append(...rows);
}
function sortable(table) {
  Array.from(table.tBodies[0].rows).forEach((row, place) => (row.dataset.place = place));
  Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
    const button = make("button", { type: "button" }, ...header.childNodes);
    header.append(button);
    header.ariaSort = "none";
    button.addEventListener("click", () => sort(table, header, column));
  });
}
// What is shown of a table, by row and column.
function shown(table) {
  const text = (cell) => {
    const copy = cell.cloneNode(true);
    for (const mark of all("sup", copy)) if (/^[a-z](,[a-z])*$/.test(mark.textContent)) mark.remove();
    return cell.dataset.value ?? ("missing" in cell.dataset ? "" : copy.textContent.replace(/\s+/g, " ").trim());
  };
  return [table.tHead.rows[0], ...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => Array.from(row.cells, text));
}
const PICKED = "picked";
function filter(table, words, group) {
  for (const row of table.tBodies[0].rows) {
    const name = experimentOf(row);
    const inGroup = !group || (group === PICKED ? picked.includes(name) : groups[name] === group);
    const text = `${row.textContent} ${name ?? ""}`.toLowerCase();
    row.hidden = !inGroup || !words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  }
}
function tools(table) {
  const box = table.closest(".box");
  const title = box.ariaLabel;
  const words = make("input", { type: "search", placeholder: "Filter", ariaLabel: `Filter ${title}` });
  const group = make("select", { ariaLabel: `Group in ${title}` }, new Option("All groups", ""));
  const own = new Set(Array.from(table.tBodies[0].rows, (row) => groups[experimentOf(row)]).filter(Boolean));
  group.append(...Array.from(new Set(Object.values(groups))).filter((name) => own.has(name)).map((name) => new Option(name)), new Option("Picked", PICKED));
  table.filterAgain = () => filter(table, words.value, group.value);
  words.addEventListener("input", table.filterAgain);
  group.addEventListener("change", table.filterAgain);
  const written = document.getElementById(`latex-${table.dataset.table}`)?.textContent;
  const texts = { CSV: () => csv(shown(table)), LaTeX: () => written ?? latex(shown(table)) };
  const menu = exportMenu(title, table.dataset.table ?? slug(title), texts);
  box.before(make("div", { className: "tools" }, words, ...(own.size ? [group] : []), menu));
}
function pickable(row) {
  const name = experimentOf(row);
  if (!names.includes(name)) return;
  const box = make("input", { type: "checkbox", className: "pick", value: name, ariaLabel: `Pick ${name}` });
  box.addEventListener("change", () => pick(name, box.checked));
  row.cells[0].prepend(box);
}

// ---- Charts

const LIGHT = { ink: "#1c2126", rule: "#dfe3e8", paper: "#fff" };
function colours() {
  const found = getComputedStyle(document.documentElement);
  return { ink: found.getPropertyValue("--ink"), rule: found.getPropertyValue("--rule"), paper: "transparent" };
}
const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
function keysOf(chart, { name, keys }) {
  return keys ?? (chart.keys ? [name] : []);
}
function traces(chart, { ink }) {
  const strength = (key) => (picked.length === 0 || picked.includes(key) ? 1 : 0.12);
  const made = chart.series.map((one) => {
    const keys = keysOf(chart, one);
    const colour = one.colour === "#000000" ? ink : one.colour;
    const trace = { type: "scatter", name: escaped(one.name), x: one.x, y: one.y, customdata: keys };
    if (!one.labels) {
      const strong = keys.length === 0 || strength(keys[0]) === 1;
      const line = { color: colour, dash: one.dash, width: picked.includes(keys[0]) ? 3 : 2 };
      const seen = strong ? {} : { opacity: 0.12, hoverinfo: "skip", showlegend: false };
      return { ...trace, mode: one.x.length > 1 ? "lines" : "markers", line, marker: { color: colour, symbol: one.marker }, ...seen };
    }
    const named = keys.map((key, place) => (picked.length ? picked.includes(key) : chart.frontier.keys.includes(key)) ? escaped(one.labels[place]) : "");
    const marker = { color: colour, symbol: one.marker, size: 10, opacity: keys.map(strength), line: { color: ink, width: 0.5 } };
    const said = one.said.map(([x, y], place) => `<b>${escaped(one.labels[place])}</b><br>${escaped(chart.x)}: ${x}<br>${escaped(chart.y)}: ${y}`);
    const words = { text: named, hovertext: said, textposition: "top right", textfont: { size: 11 } };
    return { ...trace, ...words, mode: "markers+text", marker, cliponaxis: false, hovertemplate: "%{hovertext}<extra></extra>" };
  });
  const edge = { x: chart.frontier?.x, y: chart.frontier?.y, name: "frontier", mode: "lines", hoverinfo: "skip" };
  return chart.frontier ? [{ ...edge, line: { color: ink, dash: "dash", width: 1 }, opacity: 0.6 }, ...made] : made;
}
const MOST_NAMES = 8; // curves whose names fit a legend, and their values a box
function layout(chart, { ink, rule, paper }, isWhole = false) {
  const isFew = chart.series.filter((one) => !picked.length || !chart.keys || picked.includes(one.name)).length <= MOST_NAMES;
  const axis = (label, range) => ({
    title: { text: escaped(label), standoff: 6 }, gridcolor: rule, zerolinecolor: rule, 
    ...(range && !isWhole ? { range } : { autorange: true }),
  });
  const mark = { type: "line", x0: chart.marked, x1: chart.marked, yref: "paper", y0: 0, y1: 1, line: { color: ink, dash: "dot", width: 1 } };
  return {
    font: { color: ink, size: 12, family: "system-ui, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif" },
    paper_bgcolor: paper, plot_bgcolor: paper, margin: { l: 56, r: 12, t: 16, b: 44 }, ...(chart.frontier || !isFew ? { hovermode: "closest" } : { hovermode: "x unified", hoverdistance: -1 }),
    xaxis: { ...axis(chart.x, chart.near?.x), domain: [0, chart.frontier ? 0.78 : 1] }, yaxis: axis(chart.y, chart.near?.y), dragmode: "zoom", hoverlabel: { namelength: -1 },
    legend: { orientation: "h", y: -0.2, yanchor: "top" }, showlegend: isFew, shapes: chart.marked == null ? [] : [mark],
  };
}
const drawn = new Map(); // what is drawn, by its place in the page
const CONFIG = { displayModeBar: false, responsive: true, scrollZoom: false };
function draw(place) {
  const { chart, isWhole } = drawn.get(place);
  return Plotly.react(place, traces(chart, colours()), layout(chart, colours(), isWhole), CONFIG);
}
const inSight = new IntersectionObserver(
  (entries) => entries.filter(({ isIntersecting }) => isIntersecting).forEach(({ target }) => begin(target)),
  { rootMargin: "600px" }
);
async function begin(place) {
  inSight.unobserve(place);
  if (drawn.has(place)) return;
  drawn.set(place, { chart: JSON.parse(place.nextElementSibling.textContent), isWhole: false });
  place.replaceChildren();
  await draw(place);
  place.on("plotly_click", ({ points }) => {
    if (points[0].data.mode === "markers+text") location.hash = `experiment-${points[0].customdata}`;
  });
}
function valuesOf(chart) {
  const rows = chart.series.flatMap(({ name, x, y, labels }) => x.map((at, place) => [labels?.[place] ?? name, String(at), String(y[place])]));
  return [[chart.frontier ? "Method" : "Curve", chart.x, chart.y], ...rows];
}
function image(chart, format) {
  return Plotly.toImage({ data: traces(chart, LIGHT), layout: layout(chart, LIGHT) }, { format, width: 720, height: 480, scale: format === "png" ? 2 : 1 });
}
function chartTools(figure) {
  const place = figure.querySelector(".plot");
  const chart = JSON.parse(place.nextElementSibling.textContent);
  const pictures = { SVG: () => image(chart, "svg"), PNG: () => image(chart, "png") };
  const values = make("details", { className: "values" }, make("summary", { ariaLabel: `Values of ${chart.title}` }, "Values"));
  const menu = exportMenu(chart.title, slug(chart.title), { CSV: () => csv(valuesOf(chart)) }, pictures);
  const bar = make("div", { className: "tools" }, values, menu);
  if (chart.outside?.length) {
    const button = make("button", { type: "button", ariaPressed: "false" }, "Show all points");
    button.addEventListener("click", async () => {
      await begin(place);
      const state = drawn.get(place);
      state.isWhole = !state.isWhole;
      button.ariaPressed = String(state.isWhole);
      await draw(place);
    });
    bar.prepend(button, make("span", { className: "note" }, `Outside: ${chart.outside.join(", ")}`));
  }
  values.addEventListener("toggle", () => {
    const table = make("table", {}, make("thead", {}, make("tr")), make("tbody"));
    const [head, ...rows] = valuesOf(chart);
    table.tHead.rows[0].append(...head.map((text) => make("th", { scope: "col" }, text)));
    fill(table, rows);
    values.replaceChildren(values.firstChild, make("div", { className: "box tall", tabIndex: 0, role: "region", ariaLabel: `Values of ${chart.title}` }, table));
  }, { once: true });
  figure.append(bar);
  inSight.observe(place);
}

// ---- Comparing

function fill(table, content) {
  table.tBodies[0].replaceChildren(
    ...content.map((texts) => make("tr", {}, ...texts.map((text, column) => make(column ? "td" : "th", {}, String(text)))))
  );
}
function pairs() {
  const places = picked.map((name) => names.indexOf(name));
  return places.flatMap((one, at) => places.slice(at + 1).map((other) => [one, other]));
}
function tested(attack, one, other) {
  const [low, high] = [Math.min(one, other), Math.max(one, other)];
  const [images, ...rest] = known.pairs[attack][low * names.length - (low * (low + 1)) / 2 + high - low - 1];
  const p = rest.pop();
  const percent = (place) => (100 * known.accuracies[attack][place]).toFixed(known.digits[attack]);
  return [attack, names[one], names[other], percent(one), percent(other), ...(low === one ? rest : rest.reverse()), p, images];
}
function onlyRight(attack, one, other) {
  const { numbers, right } = known.images[attack];
  const [first, second] = [one, other].map((place) => atob(right[place]));
  const bit = (bytes, at) => (bytes.charCodeAt(at >> 3) >> (7 - (at % 8))) & 1;
  return numbers.filter((_, at) => bit(first, at) && !bit(second, at));
}
function disputed(attack, one, other) {
  const found = onlyRight(attack, one, other);
  const told = make("p", {}, `${names[one]} right, ${names[other]} wrong: `, make("b", {}, String(found.length)), found.length ? ` (${found.join(", ")}) ` : "");
  for (const number of found) {
    const picture = document.querySelector(`article [data-image="${number}"]`);
    if (picture) told.append(picture.cloneNode());
  }
  return told;
}
function compare() {
  const part = document.getElementById("compare-found");
  part.hidden = picked.length < 2;
  document.getElementById("compare-count").textContent = picked.length ? ` (${picked.length})` : "";
  document.getElementById("compare-picked").replaceChildren(...picked.map((name) => {
    const button = make("button", { type: "button", ariaLabel: `Drop ${name}` }, `${known.names[names.indexOf(name)].label} ×`);
    button.addEventListener("click", () => pick(name, false));
    return button;
  }));
  if (part.hidden) return;
  const [tests, settings] = all("table", part);
  fill(tests, Object.keys(known.pairs).flatMap((attack) => pairs().map(([one, other]) => tested(attack, one, other))));
  tests.filterAgain();
  settings.tHead.rows[0].replaceChildren(...["Setting", ...picked].map((text) => make("th", { scope: "col" }, text)));
  fill(settings, Object.entries(known.settings)
    .map(([path, values]) => [path, ...picked.map((name) => values[names.indexOf(name)] || "–")])
    .filter(([, ...values]) => new Set(values).size > 1));
  settings.filterAgain();
  const attack = part.querySelector("#compare-attack").value;
  const both = pairs().flatMap(([one, other]) => [[one, other], [other, one]]);
  part.querySelector(".pictures").replaceChildren(...both.map((pair) => disputed(attack, ...pair)));
}
function pick(name, on) {
  if (on === picked.includes(name)) return;
  if (on) picked.push(name);
  else picked.splice(picked.indexOf(name), 1);
  for (const box of all("input.pick")) {
    box.checked = picked.includes(box.value);
    box.closest("tr").classList.toggle("picked", box.checked);
  }
  for (const table of all("table")) table.filterAgain?.();
  for (const [place, { chart }] of drawn) if (chart.keys || chart.frontier) draw(place);
  compare();
}

for (const table of all("table.sortable")) sortable(table);
for (const table of all(".box > table")) tools(table);
for (const row of all("main tbody > tr")) pickable(row);
for (const figure of all("figure.chart")) chartTools(figure);
for (const figure of all("figure.drawn")) {
  const picture = figure.querySelector("img");
  const svg = figure.querySelector("script");
  const pictures = { ...(svg && { SVG: async () => `data:image/svg+xml,${encodeURIComponent(JSON.parse(svg.textContent))}` }), PNG: async () => picture.src };
  figure.append(exportMenu(picture.alt, figure.id.replace("figure-", ""), {}, pictures));
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => Array.from(drawn.keys(), draw));
addEventListener("beforeprint", () => all(".plot").forEach(begin));
if (known) {
  const [add, attack] = ["compare-add", "compare-attack"].map((id) => document.getElementById(id));
  add.append(...known.names.map(({ label, name }) => new Option(label, name)));
  add.addEventListener("change", () => {
    if (add.value) pick(add.value, true);
    add.value = "";
  });
  attack.append(...Object.keys(known.pairs).map((name) => new Option(name)));
  attack.addEventListener("change", compare);
  compare();
}
