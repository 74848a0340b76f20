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

/* A corner without words is no title. */
for (const header of document.querySelectorAll("article th")) {
  if (!header.textContent.trim()) header.replaceWith(document.createElement("td"));
}

for (const table of document.querySelectorAll("article table")) {
  if (!table.tHead || table.tBodies[0].rows.length < 10) continue;
  table.classList.add("sortable");
  const headers = Array.from(table.tHead.rows[0].cells);
  headers.forEach((header, column) => {
    if (!header.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...(header.querySelector("p") ?? header).childNodes);
    header.replaceChildren(button);
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

/* What Sphinx and furo leave unsaid to screen readers. */
document.querySelector(".sidebar-drawer")?.setAttribute("aria-label", "Pages");
document.querySelector(".toc-drawer")?.setAttribute("aria-label", "On this page");
/* Arguments, one a line, are written as definitions of nothing: boxes say the same. */
for (const list of document.querySelectorAll("dl:not(:has(> dt))")) {
  const box = document.createElement("div");
  box.className = "arguments";
  for (const argument of list.children) {
    const line = document.createElement("div");
    line.append(...argument.childNodes);
    box.append(line);
  }
  list.replaceWith(box);
}
if (!document.querySelector("h1")) {
  const title = document.createElement("h1");
  title.textContent = "Search";
  document.querySelector("article").prepend(title);
}
