// Makes the charts interactive and the tables sortable. The page says everything without it.
(() => {
  "use strict";
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const views = [];

  // Nothing is ever loaded; the page's policy forbids it, and so do the charts themselves.
  const refuse = () => Promise.reject(new Error("this page loads nothing"));
  const loader = { load: refuse, sanitize: refuse, http: refuse, file: refuse, options: {} };

  async function enliven(figure) {
    const spec = specs[figure.dataset.chart];
    const drawing = figure.querySelector(".drawing");
    if (!spec || !drawing) return;
    const host = document.createElement("div");
    host.className = "live";
    host.setAttribute("role", "img");
    host.setAttribute("aria-label", drawing.getAttribute("aria-label"));
    drawing.parentNode.insertBefore(host, drawing);
    try {
      // ast: expressions are interpreted, not compiled, so the policy need not allow eval.
      const result = await vegaEmbed(host, spec, {
        actions: false, ast: true, hover: false, loader, renderer: "svg",
      });
      drawing.remove();
      views.push(result.view);
      const focus = (event, item) => point(item && item.datum ? item.datum.name || "" : "");
      result.view.addEventListener("pointerover", focus);
      result.view.addEventListener("pointerout", () => point(""));
    } catch (error) {
      host.remove();
      console.warn("The chart stays as drawn:", error.message);
    }
  }

  let pointed = "";
  function point(name) {
    if (name === pointed) return;
    pointed = name;
    for (const view of views) view.signal("focus", name).runAsync();
    for (const row of document.querySelectorAll("[data-method]")) {
      row.classList.toggle("pointed", name !== "" && row.dataset.method === name);
    }
  }
  for (const row of document.querySelectorAll("[data-method]")) {
    row.addEventListener("pointerenter", () => point(row.dataset.method));
    row.addEventListener("pointerleave", () => point(""));
  }

  const figures = document.querySelectorAll("[data-chart]");
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      enliven(entry.target);
    }
  }, { rootMargin: "600px" });
  figures.forEach((figure) => near.observe(figure));

  function valueOf(row, column) {
    const cell = row.cells[column];
    return "sort" in cell.dataset ? Number(cell.dataset.sort) : cell.textContent.trim();
  }
  function compare(a, b) {
    const numbers = typeof a === "number" && typeof b === "number";
    if (numbers) return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a.localeCompare(b);
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => (down ? -1 : 1) * compare(valueOf(a, column), valueOf(b, column)));
        table.tBodies[0].append(...rows);
      });
    });
  }

  // A folded part is part of the printed page.
  const folded = () => document.querySelectorAll("details:not([open])");
  let opened = [];
  addEventListener("beforeprint", () => { opened = [...folded()]; opened.forEach((d) => { d.open = true; }); });
  addEventListener("afterprint", () => opened.forEach((d) => { d.open = false; }));
})();
