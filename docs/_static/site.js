/* Tables of ten rows and more can be sorted by any column. */
"use strict";

/* The number at the start of a cell, or its text in lower case. Empty cells are last. */
function valueOf(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text);
  return Number.isNaN(number) ? text.toLowerCase() : number;
}

function compare(a, b) {
  if (a === "" || b === "") return a === b ? 0 : a === "" ? 1 : -1;
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b));
}

function sort(table, column, ascending) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const filled = rows.filter((row) => valueOf(row, column) !== "");
  const empty = rows.filter((row) => valueOf(row, column) === "");
  filled.sort((a, b) => compare(valueOf(a, column), valueOf(b, column)));
  if (!ascending) filled.reverse();
  body.append(...filled, ...empty);
}

for (const table of document.querySelectorAll("article table")) {
  if (!table.tHead || table.tBodies[0].rows.length < 10) continue;
  table.classList.add("sortable");
  const headers = Array.from(table.tHead.rows[0].cells);
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const ascending = header.getAttribute("aria-sort") !== "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sort(table, column, ascending);
    });
  });
}

/* What scrolls by itself can be scrolled with the keyboard too. */
for (const box of document.querySelectorAll(".table-wrapper, div.highlight pre")) {
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
}
