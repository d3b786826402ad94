// Sorts and filters the claims table. Without it the page shows the same table in its own order.
(() => {
  "use strict";
  const table = document.querySelector("table.claims");
  if (!table) return;
  const body = table.tBodies[0];
  const original = [...body.rows];
  const rows = original.filter((row) => !row.classList.contains("group"));
  const heads = [...table.tHead.rows[0].cells];
  const status = document.getElementById("claims-status");
  const state = { chosen: { show: "all" }, column: -1, order: "none" };

  const key = (row) => row.cells[state.column].dataset.key;
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // what has no number comes last
    const sign = state.order === "descending" ? -1 : 1;
    return sign * (state.column === 0 ? x.localeCompare(y, "en") : Number(x) - Number(y));
  };
  const shown = (row) => {
    const { of, show } = state.chosen; // a verdict on the direction or the size, or neither
    if (of) return row.dataset[of] === show;
    return show === "all" || "headline" in row.dataset;
  };

  const update = () => {
    const sorted = state.order !== "none";
    body.replaceChildren(...(sorted ? [...rows].sort(compare) : original));
    let group = null;
    for (const row of body.rows) {
      if (row.classList.contains("group")) {
        group = row;
        row.hidden = true;
      } else {
        row.hidden = !shown(row);
        if (group && !row.hidden) group.hidden = false;
      }
    }
    heads.forEach((head, i) =>
      head.setAttribute("aria-sort", i === state.column ? state.order : "none"));
    const order = sorted ? `sorted by ${heads[state.column].textContent}, ${state.order}` :
      "in the order of the notebooks";
    status.textContent = `${rows.filter(shown).length} of ${rows.length} findings, ${order}`;
  };

  const button = (parent) => {
    const made = document.createElement("button");
    made.type = "button";
    made.append(...parent.childNodes);
    parent.append(made);
    return made;
  };
  const next = { none: "ascending", ascending: "descending", descending: "none" };
  heads.forEach((head, i) => {
    button(head).addEventListener("click", () => {
      state.order = i === state.column ? next[state.order] : "ascending";
      state.column = i;
      update();
    });
  });
  const choices = [...document.querySelectorAll(".counts li")].map((item) => {
    const made = button(item);
    made.addEventListener("click", () => {
      state.chosen = item.dataset;
      choices.forEach((one) => one.setAttribute("aria-pressed", one === made));
      update();
    });
    made.setAttribute("aria-pressed", item.dataset.show === "all");
    return made;
  });
  update();
})();
