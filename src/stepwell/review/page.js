// Where a number is from, shown where the pointer or the keyboard is.
(() => {
  const trace = JSON.parse(document.getElementById("trace").textContent);
  const cells = new Map(trace.cells.map((cell) => [cell.id, cell]));
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "tooltip");
  document.body.append(tip);
  const lines = (cell) => [
    cell.id,
    cell.source,
    cell.observed && `observed ${cell.observed}`,
    cell.known_since && `known since ${cell.known_since}`,
    cell.derivation && `${cell.derivation.formula} v${cell.derivation.version}: ${cell.derivation.inputs.join(", ")}`,
    cell.speaker && `claimed by ${cell.speaker}`,
    cell.missing,
    cell.origin === "made" && "made up for the sample",
  ].filter(Boolean);
  const show = (mark) => {
    const cell = cells.get(mark.dataset.cell);
    if (!cell) return;
    tip.textContent = lines(cell).join("\n");
    tip.hidden = false;
    const box = mark.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${box.bottom + tip.offsetHeight + 12 < innerHeight ? box.bottom + 6 : box.top - tip.offsetHeight - 6}px`;
  };
  const hide = () => { tip.hidden = true; };
  for (const mark of document.querySelectorAll("[data-cell]")) {
    mark.setAttribute("tabindex", "0");
    mark.addEventListener("mouseenter", () => show(mark));
    mark.addEventListener("focus", () => show(mark));
    mark.addEventListener("mouseleave", hide);
    mark.addEventListener("blur", hide);
  }
})();
