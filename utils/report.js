"use strict";
// Comfort only: the page shows everything without it.
document.documentElement.classList.add("script");
const collator = new Intl.Collator("en", { numeric: true });

function makeSortable(table) {
  if (table.tBodies[0].rows.length < 2) return;
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const first = header.dataset.first ?? "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      const order = header.getAttribute("aria-sort") === first ? second : first;
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", order);
      sortRows(table.tBodies[0], column, order === "ascending" ? 1 : -1);
    });
  });
}

function sortRows(body, column, sign) {
  const keyed = Array.from(body.rows, (row) => {
    const text = row.cells[column].textContent;
    return { row, text, number: parseFloat(text) };
  });
  if (column === 0) {
    keyed.sort((a, b) => sign * collator.compare(a.text, b.text));
  } else {
    // What is missing comes last in either order.
    keyed.sort((a, b) => isNaN(a.number) - isNaN(b.number) || sign * (a.number - b.number) || 0);
  }
  const sorted = document.createDocumentFragment();
  keyed.forEach(({ row }) => sorted.append(row));
  body.append(sorted);
}

function makeFilter(tools) {
  const rows = [...tools.nextElementSibling.querySelectorAll("tbody tr")];
  const [input, output] = [tools.querySelector("input"), tools.querySelector("output")];
  const apply = () => {
    const wanted = input.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    output.value = `${shown} of ${rows.length}`;
  };
  input.addEventListener("input", apply);
  apply();
  tools.hidden = false;
}

function makeLightBox(panels) {
  const box = document.createElement("dialog");
  box.className = "light-box";
  const [picture, caption] = [document.createElement("img"), document.createElement("p")];
  box.append(picture, caption);
  document.body.append(box);
  let current;
  const show = (button) => {
    if (!button) return;
    current = button;
    const image = button.querySelector("img");
    picture.src = image.src;
    picture.alt = caption.textContent = image.alt;
  };
  const step = (by) => {
    const row = [...current.closest(".panels").querySelectorAll("button")];
    show(row[row.indexOf(current) + by]);
  };
  box.addEventListener("click", () => box.close());
  box.addEventListener("close", () => current.focus());
  box.addEventListener("keydown", ({ key }) => {
    if (key === "ArrowRight") step(1);
    if (key === "ArrowLeft") step(-1);
  });
  for (const button of panels) {
    button.addEventListener("click", () => {
      show(button);
      box.showModal();
    });
  }
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll(".tools").forEach(makeFilter);
makeLightBox(document.querySelectorAll(".panels button"));
