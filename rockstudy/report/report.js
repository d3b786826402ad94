// Enlarges figures, opens the folded part that a link names, and sorts and filters the claims. Without
// it the page shows the same content: figures in their size, claims in their own order.
(() => {
  "use strict";
  const drawn = [...document.querySelectorAll("figure .drawn")];
  const dialog = document.createElement("dialog");
  const named = (figure) => figure.querySelector("b")?.textContent.replace(/\.$/, "") ?? "Figure";
  let place = 0;

  const control = (text, label, action) => {
    const made = document.createElement("button");
    made.type = "button";
    made.append(text);
    made.setAttribute("aria-label", label);
    made.addEventListener("click", action);
    return made;
  };
  const show = (next) => {
    place = (next + drawn.length) % drawn.length;
    const figure = drawn[place].closest("figure");
    const image = drawn[place].querySelector("img").cloneNode();
    const caption = document.createElement("p");
    caption.textContent = figure.querySelector("figcaption")?.textContent ?? "";
    dialog.setAttribute("aria-label", named(figure));
    dialog.querySelector(".shown").replaceChildren(image, caption);
    if (!dialog.open) dialog.showModal();
  };
  if (drawn.length) {
    const bar = document.createElement("div");
    bar.className = "bar-of";
    bar.append(
      control("←", "previous figure", () => show(place - 1)),
      control("→", "next figure", () => show(place + 1)),
      control("✕", "close", () => dialog.close()),
    );
    const shown = document.createElement("div");
    shown.className = "shown";
    dialog.append(bar, shown);
    document.body.append(dialog);
    dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) show(place + step);
    });
    dialog.addEventListener("close", () => drawn[place].querySelector("button").focus());
    drawn.forEach((one, i) => {
      const image = one.querySelector("img");
      const made = control("", `enlarge ${named(one.closest("figure"))}: ${image.alt}`, () => show(i));
      made.append(image);
      one.append(made);
    });
  }

  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let part = target; part; part = part.parentElement?.closest("details")) {
      if (part.tagName === "DETAILS") part.open = true;
    }
    target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  reveal();

  let opened = [];
  addEventListener("beforeprint", () => { // all claims are printed, notebooks as they are open
    opened = [...document.querySelectorAll("#claims details:not([open])")];
    opened.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((part) => { part.open = false; }));

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
