// What was preempted, evicted, came back or was refused: the newest first.
import { html } from "./vendor/htm-preact.mjs";
import { ticker } from "./watch.mjs";
import { route } from "./parts.mjs";
import { clock } from "./format.mjs";

const SHOWN = 60;
const said = { preempted: "preempted", evicted: "evicted", came_back: "came back", refused: "refused" };

export function Ticker() {
  const lines = ticker.value.slice(-SHOWN).reverse();
  return html`<section class="ticker" aria-label="What happened"><h2>What happened</h2>
    <div class="scroll" tabindex="0" role="log" aria-live="off" aria-label="Preemptions, evictions, returns and refusals">
    ${lines.length === 0 ? html`<p class="note">Nothing was preempted, evicted, brought back or refused yet.</p>` : null}
    <ol>${lines.map((line) => html`<li><time>${clock(line.at)}</time> <b class=${`kind ${line.kind}`}>${said[line.kind] ?? line.kind}</b>
      ${" "}${line.session_id ? html`<a href=${route("session", line.session_id, line.tenant)}>${line.agent_id ?? line.session_id}</a>` : line.agent_id}
      ${" "}<span class="dim">${line.detail}</span></li>`)}</ol></div></section>`;
}
