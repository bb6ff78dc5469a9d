// Cost, revenue, margin and budgets by tenant; operators only.
import { html } from "./vendor/htm-preact.mjs";
import { useEffect, useState } from "./vendor/hooks.mjs";
import { get } from "./api.mjs";
import { Problem } from "./parts.mjs";
import { count, usd } from "./format.mjs";

const table = (title, heads, rows) => html`<table><caption>${title}</caption><thead><tr>${heads.map((h, i) => html`<th scope="col" class=${i ? "num" : ""}>${h}</th>`)}</tr></thead>
  <tbody>${rows.map((row) => html`<tr>${row.map((cell, i) => (i ? html`<td class="num">${cell}</td>` : html`<th scope="row">${cell}</th>`))}</tr>`)}</tbody></table>`;

export function Money() {
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    let over = false;
    const look = () => Promise.all([get("/admin/margin"), get("/admin/budgets?limit=100")])
      .then(([margin, budgets]) => { if (!over) { setFound({ margin, budgets: budgets.data }); setError(null); } }, (problem) => { if (!over) setError(problem); });
    look();
    const again = setInterval(look, 15000);
    return () => { over = true; clearInterval(again); };
  }, []);
  if (!found) return html`<section><h2>Money</h2><${Problem} error=${error} />${error ? null : html`<p class="note">Adding up.</p>`}</section>`;
  const { margin, budgets } = found, machine = Object.entries(margin.machine_microusd);
  return html`<section aria-label="Money"><h2>Money</h2><${Problem} error=${error} />
    ${table(`The last ${count(margin.period_s / 60)} minutes, by tenant`, ["tenant", "requests", "revenue", "cost", "margin"],
      margin.data.map((line) => [line.tenant, count(line.requests), usd(line.revenue_microusd), usd(line.cost_microusd), usd(line.margin_microusd)]))}
    ${margin.data.length ? null : html`<p class="note">Nothing was charged in this time.</p>`}
    ${machine.length ? table("What the machine cost beside", ["line", "cost"], machine.map(([kind, amount]) => [kind, usd(amount)])) : null}
    ${budgets.length ? table("Budgets", ["scope", "spent", "held", "soft limit", "limit"],
      budgets.map((one) => [`${one.scope} ${one.tenant}${one.name ? ` ${one.name}` : ""}`, usd(one.spent_usd * 1e6), usd(one.held_usd * 1e6), one.soft_usd == null ? "none" : usd(one.soft_usd * 1e6), one.hard_usd == null ? "none" : usd(one.hard_usd * 1e6)]))
      : html`<p class="note">No budget is in force.</p>`}
  </section>`;
}
