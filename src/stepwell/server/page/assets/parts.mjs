// Small things that several views show.
import { html } from "./vendor/htm-preact.mjs";
import { count, states, tiers } from "./format.mjs";

export const route = (view, id, tenant) =>
  `#/${view}${id ? `/${encodeURIComponent(id)}` : ""}${tenant ? `?tenant=${encodeURIComponent(tenant)}` : ""}`;

export function KvBar({ row }) {
  const kv = row.kv_tokens, total = Math.max(1, row.context_tokens);
  const parts = [...tiers, "gone"].filter((tier) => kv[tier] > 0);
  const said = parts.map((tier) => `${count(kv[tier])} ${tier}`).join(", ") || "nothing yet";
  return html`<span class="kv" role="img" aria-label=${`KV tokens: ${said}`} title=${`${said} of ${count(row.context_tokens)} tokens`}>
    ${parts.map((tier) => html`<i class=${tier} style=${{ width: `${(100 * kv[tier]) / total}%` }}></i>`)}
  </span>`;
}

export const State = ({ row }) => html`<span class=${`state ${row.status}`}>${states[row.status] ?? row.status}</span>`;

export const Problem = ({ error }) => (error ? html`<p class="problem" role="alert">${error.message ?? error}</p>` : null);
