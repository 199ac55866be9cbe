"use strict";
// Everything is there without this script; it makes tables sortable.
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
