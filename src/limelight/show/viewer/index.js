// The index of several pictures: sort by any column, show the tests of one method.
const body = document.querySelector("tbody");
const heads = [...document.querySelectorAll("th")];
const READ = { number: (cell) => (cell?.dataset.number ? Number(cell.dataset.number) : NaN), value: (cell) => cell?.dataset.value ?? "" };

function compare(a, b) {
  if (typeof a === "string") return a.localeCompare(b);
  return a - b;
}

heads.forEach((head, column) => {
  head.querySelector("button")?.addEventListener("click", () => {
    const rising = head.getAttribute("aria-sort") !== "ascending";
    const kind = column > 2 ? "number" : "value";
    const rows = [...body.rows].map((row) => [READ[kind](row.cells[column]), row]);
    const known = rows.filter(([value]) => value === value && value !== "");
    const unknown = rows.filter(([value]) => value !== value || value === "");
    known.sort(([a], [b]) => (rising ? compare(a, b) : compare(b, a)));
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    body.append(...[...known, ...unknown].map(([, row]) => row)); // without a figure last, either way
  });
});

document.querySelector("select").addEventListener("change", (event) => {
  heads.forEach((head, column) => {
    const away = Boolean(event.target.value && head.dataset.method && head.dataset.method !== event.target.value);
    head.hidden = away;
    for (const row of body.rows) if (row.cells[column]) row.cells[column].hidden = away;
  });
});
