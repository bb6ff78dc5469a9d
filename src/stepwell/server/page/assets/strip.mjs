// The KV tiers: how full each is, its bound, and what moves between them a second.
import { html } from "./vendor/htm-preact.mjs";
import { frame, history } from "./watch.mjs";
import { bytes, count, tiers } from "./format.mjs";

const routes = { device: ["device_host", "host_device"], host: ["host_disk", "disk_host"] };
let before = null, rates = {};

function moves(now) {
  if (!now?.counters) return {};
  if (before && now.seq !== before.seq && now.at > before.at) {
    const seconds = now.at - before.at;
    rates = Object.fromEntries(Object.keys(now.counters).filter((name) => name.startsWith("moved_bytes_"))
      .map((name) => [name.slice(12), (now.counters[name] - (before.counters[name] ?? 0)) / seconds]));
  }
  before = { seq: now.seq, at: now.at, counters: now.counters };
  return rates;
}

function Tier({ name, tier }) {
  const bounded = tier.limit_bytes > 0;
  const share = bounded ? tier.used_bytes / tier.limit_bytes : 0;
  const said = tier.limit_bytes == null ? `${count(tier.agent_tokens)} tokens`
    : bounded ? `${bytes(tier.used_bytes)} of ${bytes(tier.limit_bytes)}` : "off";
  return html`<div class="tier">
    <h3>${name}</h3>
    ${tier.limit_bytes == null ? null : html`<div class="meter" role="meter" aria-label=${`${name} KV`} aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(100 * share)}>
      <i class=${name} style=${{ width: `${100 * Math.min(1, share)}%` }}></i></div>`}
    <p>${said}</p>
    ${tier.limit_bytes == null || !bounded ? null : html`<p class="dim">${Math.round(100 * share)} % full, ${count(tier.blocks)} blocks</p>`}
  </div>`;
}

const Between = ({ down, up }) => html`<div class="between" role="group" aria-label="moves between these tiers">
  <span>↓ ${bytes(down)}/s</span><span>↑ ${bytes(up)}/s</span></div>`;

export function Strip() {
  const now = frame.value;
  history.value;
  if (!now) return null;
  const speed = moves(now);
  return html`<section class="strip" aria-label="KV tiers"><h2 class="sr">KV tiers and queue</h2>
    ${tiers.map((name) => html`
      <${Tier} name=${name} tier=${now.kv_tiers[name] ?? { agent_tokens: 0 }} />
      ${routes[name] && now.counters ? html`<${Between} down=${speed[routes[name][0]] ?? 0} up=${speed[routes[name][1]] ?? 0} />` : null}`)}
    <div class="tier">
      <h3>queue</h3>
      <p><b>${count(now.requests.running)}</b> running</p>
      <p><b>${count(now.requests.waiting)}</b> waiting</p>
    </div>
  </section>`;
}
