// Reads the lane under the pointer out loud: which agent, when, and where its tokens lay.
"use strict";
(() => {
  const runs = JSON.parse(document.getElementById("lanes").textContent);
  const tip = document.getElementById("tip");

  function pointAt(points, t) {
    let low = 0, high = points.length - 1, found = null;
    while (low <= high) {
      const middle = (low + high) >> 1;
      if (points[middle][0] <= t) { found = points[middle]; low = middle + 1; } else { high = middle - 1; }
    }
    return found;
  }

  function places(agent, t, point) {
    if (point === null) return `${agent}\n${t.toFixed(1)} s: not started`;
    const [, state, tokens, device, host, disk] = point;
    const absent = Math.max(0, tokens - device - host - disk);
    const rows = [["device", device], ["host", host], ["disk", disk], ["nowhere", absent]];
    return `${agent}\n${t.toFixed(1)} s: ${state}, context ${tokens} tokens\n` +
      rows.filter(([, n]) => n > 0).map(([name, n]) => `${name}: ${n}`).join("\n");
  }

  document.querySelectorAll("figure[data-run]").forEach((figure) => {
    const lanes = runs[Number(figure.dataset.run)];
    const svg = figure.querySelector("svg.picture");
    const cursor = svg.querySelector(".cursor");
    const left = Number(svg.dataset.left), right = Number(svg.dataset.right), end = Number(svg.dataset.end);
    const hide = () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); };

    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("pointermove", (event) => {
      const lane = event.target.closest(".lane");
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      if (!lane || at.x < left) { hide(); return; }
      const t = (at.x - left) / (right - left) * end;
      tip.textContent = places(lane.dataset.agent, t, pointAt(lanes[lane.dataset.agent], t));
      tip.hidden = false;
      cursor.setAttribute("x1", at.x);
      cursor.setAttribute("x2", at.x);
      cursor.setAttribute("visibility", "visible");
      tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8)}px`;
      tip.style.top = `${Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 8)}px`;
    });
  });
})();
