// Tables of numbers: a click on a head sorts, a button downloads the unrounded numbers as CSV.
// `nasvidTables.heads(table)` returns the heads in the order of a row's cells.
const nasvidTables = (() => {
  const number = (cell) => {
    const value = cell?.dataset.value;
    return value === undefined ? NaN : Number(value);
  };

  // Heads of the second row are below those of the first that are one row high.
  const heads = (table) => {
    const [first, second] = table.tHead.rows;
    const below = second ? [...second.cells] : [];
    return [...first.cells].flatMap((head) =>
      second && head.rowSpan === 1 ? below.splice(0, head.colSpan) : [head],
    );
  };

  const compare = (place, direction) => (one, other) => {
    const [a, b] = [one.cells[place], other.cells[place]];
    const [x, y] = [number(a), number(b)];
    if (Number.isNaN(x) && Number.isNaN(y))
      return direction * (a.dataset.value ?? "").localeCompare(b.dataset.value ?? "");
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1; // missing ones last
    return direction * (x - y);
  };

  const sort = (table, head, place) => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    table.tHead.querySelectorAll("[aria-sort]").forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].sort(compare(place, ascending ? 1 : -1));
    table.tBodies[0].append(...rows);
  };

  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

  const csv = (table) => {
    const columns = heads(table).flatMap((head, place) =>
      head.dataset.column ? [[head.dataset.column, place]] : [],
    );
    const lines = [
      columns.map(([name]) => name),
      ...[...table.tBodies[0].rows].map((row) =>
        columns.map(([, place]) => row.cells[place].dataset.value ?? ""),
      ),
    ];
    return lines.map((line) => line.map(quoted).join(",") + "\r\n").join("");
  };

  const download = (table) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
    link.download = `${table.dataset.file.replaceAll(/[^\w.-]+/g, "_")}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  };

  const button = (text, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.append(...text);
    made.addEventListener("click", act);
    return made;
  };

  for (const table of document.querySelectorAll("table[data-file]")) {
    heads(table).forEach((head, place) => {
      if (!head.dataset.column && !head.dataset.sort) return;
      head.append(button(head.childNodes, () => sort(table, head, place)));
    });
    const bar = document.createElement("p");
    bar.className = "download";
    bar.append(button(["Download as CSV"], () => download(table)));
    table.parentElement.after(bar);
  }
  return { heads };
})();
