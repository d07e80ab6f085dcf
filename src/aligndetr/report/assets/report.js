"use strict";
// Headings of sortable tables become buttons; numbers sort from high to low first, names from A.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const rows = [...body.rows];
      const key = (row) => row.cells[column].dataset.order;
      const isText = rows.some((row) => key(row) !== "" && Number.isNaN(Number(key(row))));
      const before = head.getAttribute("aria-sort");
      const isUp = before ? before === "descending" : isText;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
      const compare = (one, other) => {
        const [a, b] = [key(one), key(other)];
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = isText ? a.localeCompare(b) : Number(a) - Number(b);
        return isUp ? order : -order;
      };
      body.append(...rows.sort(compare));
    });
  });
}
// One class of the precision curves can be picked out.
const picker = document.getElementById("curve-class");
if (picker) {
  picker.closest("p").hidden = false;
  picker.addEventListener("change", () => {
    for (const curve of document.querySelectorAll(".curve")) {
      curve.classList.toggle("chosen", curve.dataset.class === picker.value);
    }
    document.body.classList.toggle("choosing", picker.value !== "");
  });
}
