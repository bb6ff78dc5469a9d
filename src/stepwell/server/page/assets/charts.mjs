// The last fifteen minutes.
import { html } from "./vendor/htm-preact.mjs";
import { useEffect, useRef } from "./vendor/hooks.mjs";
import { frame, history } from "./watch.mjs";
import { bytes, count, tiers } from "./format.mjs";
import { theme } from "./theme.mjs";

const SPAN = 900;
const whole = Array.from({ length: 30 }, (_, i) => [1, 2, 5][i % 3] * 10 ** Math.floor(i / 3)); // steps of an axis that counts
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const sources = ["computed", "device", "host", "disk"];

const perSecond = (points, name) => points.map((point, i) => {
  const before = points[i - 1];
  if (!before || point[name] == null || point[name] < before[name]) return null;
  return (point[name] - before[name]) / (point.at - before.at);
});
const plain = (points, name) => points.map((point) => point[name] ?? null);

const charts = [
  { title: "KV by tier", names: tiers, of: plain, unit: (operator) => (operator ? bytes : count) },
  { title: "Turns", names: ["running", "waiting"], of: plain, unit: () => count },
  { title: "Prompt tokens a second, by where their KV came from", operator: true, names: sources,
    of: (points, name) => perSecond(points, `prompt_tokens_${name}`), unit: () => count },
  { title: "Tokens generated a second", operator: true, names: ["generation"], of: (points) => perSecond(points, "generation_tokens"), unit: () => count },
];

function Chart({ chart, operator }) {
  const box = useRef(null), plot = useRef(null);
  const points = history.value, look = theme.value;
  useEffect(() => {
    const text = chart.unit(operator), axis = { stroke: colour("dim"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line") } };
    const made = new uPlot({
      width: box.current.clientWidth, height: 150, legend: { live: false },
      cursor: { drag: { x: false, y: false } },
      scales: { x: { range: () => { const now = points.length ? history.peek()[history.peek().length - 1].at : Date.now() / 1000; return [now - SPAN, now]; } }, y: { range: (u, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [axis, { ...axis, size: 70, ...(text === count ? { incrs: whole } : {}), values: (u, values) => values.map((v) => text(v)) }],
      series: [{}, ...chart.names.map((name) => ({ label: name, stroke: colour(name), width: 2, spanGaps: false, points: { show: false } }))],
    }, [[], ...chart.names.map(() => [])], box.current);
    plot.current = made;
    made.root.querySelector("table").setAttribute("role", "presentation"); // the legend
    const size = new ResizeObserver(([entry]) => { if (plot.current === made) made.setSize({ width: Math.floor(entry.contentRect.width), height: 150 }); });
    size.observe(box.current);
    return () => { size.disconnect(); made.destroy(); plot.current = null; };
  }, [look, operator]);
  useEffect(() => {
    plot.current?.setData([points.map((point) => point.at), ...chart.names.map((name) => chart.of(points, name))]);
  }, [points, look, operator]);
  const last = points[points.length - 1];
  const said = last ? chart.names.map((name) => `${name} ${chart.unit(operator)(chart.of(points, name).at(-1))}`).join(", ") : "nothing yet";
  return html`<figure><figcaption>${chart.title}</figcaption><div ref=${box} role="img" aria-label=${`${chart.title}: now ${said}`}></div></figure>`;
}

export function Charts() {
  if (!frame.value) return null;
  const operator = frame.value.operator;
  return html`<section class="charts" aria-label="The last fifteen minutes"><h2>The last fifteen minutes</h2>
    <div class="grid">${charts.filter((chart) => operator || !chart.operator).map((chart) => html`<${Chart} key=${chart.title} chart=${chart} operator=${operator} />`)}</div></section>`;
}
