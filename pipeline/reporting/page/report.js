"use strict";
// It makes tables sortable, and compares two experiments. Everything else is there without it.
function value(row, column) {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
}
function compare(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return String(one).localeCompare(String(other), "en", { numeric: true });
}
function sort(table, header, column) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const largestFirst = rows.some((row) => "value" in row.cells[column].dataset);
  const turns = largestFirst ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
  const order = turns[(turns.indexOf(header.ariaSort) + 1) % turns.length];
  for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.ariaSort = "none";
  header.ariaSort = order;
  const sign = order === "descending" ? -1 : 1;
  const missing = (row) => "missing" in row.cells[column].dataset;
  rows.sort((one, other) => {
    if (order === "none") return one.dataset.place - other.dataset.place;
    // What is not measured comes last, whatever the order.
    if (missing(one) || missing(other)) return missing(one) - missing(other);
    return sign * compare(value(one, column), value(other, column));
  });
  body.append(...rows);
}
for (const table of document.querySelectorAll("table.sortable")) {
  Array.from(table.tBodies[0].rows).forEach((row, place) => (row.dataset.place = place));
  Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    header.ariaSort = "none";
    button.addEventListener("click", () => sort(table, header, column));
  });
}

function rows(table, content) {
  table.tBodies[0].replaceChildren(
    ...content.map((texts) => {
      const row = document.createElement("tr");
      texts.forEach((text, column) => row.append(document.createElement(column ? "td" : "th")));
      texts.forEach((text, column) => (row.cells[column].textContent = text));
      return row;
    })
  );
}
function compareTwo(data, part, chosen, attack) {
  const count = data.names.length;
  const [low, high] = [Math.min(...chosen), Math.max(...chosen)];
  const pair = low * count - (low * (low + 1)) / 2 + high - low - 1;
  const tables = part.querySelectorAll("table");
  const percent = (share) => (100 * share).toFixed(2);
  rows(tables[0], low === high ? [] : data.attacks.map((name) => {
    const [images, ...only] = data.pairs[name][pair];
    const p = only.pop();
    if (low !== chosen[0]) only.reverse();
    return [name, ...chosen.map((place) => percent(data.accuracies[name][place])), ...only, p, images];
  }));
  rows(tables[1], Object.entries(data.settings)
    .map(([path, values]) => [path, ...chosen.map((place) => values[place] || "\u2013")])
    .filter(([, first, second]) => first !== second));
  for (const line of part.querySelectorAll(".overlay polyline")) {
    const side = chosen.indexOf(Number(line.dataset.place));
    line.setAttribute("class", side < 0 ? "line" : `line s${side} d${side}`);
  }
  const groups = chosen.map((place, side) => {
    const other = chosen[1 - side];
    const found = data.images.filter(({ right }) => right[attack][place] === "1" && right[attack][other] === "0");
    const group = document.createElement("p");
    group.append(`Only ${data.names[place].name}: `, found.length ? "" : "none");
    for (const { image } of found) group.append(document.querySelector(`[data-image="${image}"]`).cloneNode());
    return group;
  });
  part.querySelector(".pictures").replaceChildren(...groups);
}
const embedded = document.getElementById("compare-data");
if (embedded) {
  const data = JSON.parse(embedded.textContent);
  const [form, part] = ["compare-form", "compare-found"].map((name) => document.getElementById(name));
  const selects = [...form.querySelectorAll("select"), part.querySelector("select")];
  const show = () => compareTwo(data, part, selects.slice(0, 2).map((one) => one.selectedIndex), selects[2].value);
  selects.forEach((select, place) => {
    const texts = place < 2 ? data.names.map(({ label }) => label) : data.attacks;
    select.append(...texts.map((text) => new Option(text)));
    select.selectedIndex = place < 2 ? place : 0;
    select.addEventListener("change", show);
  });
  document.getElementById("compare-without").remove();
  form.hidden = part.hidden = false;
  show();
}
