"use strict";
// A click, Enter or Space on a heading sorts by its column, and once more the other way round.
const said = document.getElementById("sorted");
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const lines = [...body.rows].map((row) => {
        const cell = row.cells[column];
        const key = cell.dataset.key;
        return { row, key: key === undefined ? null : Number(key), text: cell.textContent };
      });
      lines.sort((a, b) => {
        // what has no number stays at the end, either way
        if ((a.key === null) !== (b.key === null)) return a.key === null ? 1 : -1;
        const order = a.key === null ? a.text.localeCompare(b.text) : a.key - b.key;
        return down ? -order : order;
      });
      body.append(...lines.map((line) => line.row));
      said.textContent = `${table.caption.textContent}: sorted by ${button.textContent}, ` +
        (down ? "descending" : "ascending");
    });
  });
}
