// A row per agent, grouped by tenant and session. Only the rows on screen are in the document.
import { html } from "./vendor/htm-preact.mjs";
import { Component } from "./vendor/preact.mjs";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/hooks.mjs";
import { agents, frame, nameOf, now } from "./watch.mjs";
import { KvBar, route, State } from "./parts.mjs";
import { count, duration, expected, usd } from "./format.mjs";

const ROW = 34, MORE = 12; // the titles stay on top of the box and are as high as a row
const STRIDE = 6 * ROW; // a scroll renders anew only when it has come so far: less than MORE rows

function lines(rows, words) {
  const found = [];
  let above = null;
  for (const row of rows) {
    if (words && !`${row.tenant ?? ""} ${row.session_id ?? ""} ${row.id} ${row.role ?? ""} ${row.status}`.toLowerCase().includes(words)) continue;
    const group = `${row.tenant ?? ""}\n${row.session_id ?? ""}`;
    if (group !== above) {
      found.push({ head: true, name: group, tenant: row.tenant, session: row.session_id, agents: 0, tokens: 0, cost: null });
      above = group;
    }
    for (let at = found.length - 1; at >= 0; at -= 1) {
      if (!found[at].head) continue;
      found[at].agents += 1;
      found[at].tokens += row.context_tokens;
      if (row.cost_microusd != null) found[at].cost = (found[at].cost ?? 0) + row.cost_microusd;
      break;
    }
    found.push({ name: nameOf(row), row });
  }
  return found;
}

const short = (row) => (row.session_id && row.id.startsWith(`${row.session_id}/`) ? row.id.slice(row.session_id.length + 1) : row.id);

const Head = ({ line, at, active }) => html`<div role="row" class=${`line head ${active ? "active" : ""}`} aria-rowindex=${at + 2} id=${`line-${at}`}>
  <span role="gridcell" class="who" aria-colspan="3">${line.tenant ? html`<b>${line.tenant}</b> / ` : null}${line.session
    ? html`<a href=${route("session", line.session, line.tenant)} tabindex="-1">${line.session}</a>` : "without a session"}
    <span class="dim"> ${count(line.agents)} ${line.agents === 1 ? "agent" : "agents"}</span></span>
  <span role="gridcell" class="num wide" aria-colindex="4">${count(line.tokens)}</span><span role="gridcell" class="num cost" aria-colindex="7">${usd(line.cost)}</span></div>`;

const Line = ({ line: { row }, at, active }) => html`<div role="row" class=${`line ${active ? "active" : ""}`} aria-rowindex=${at + 2} id=${`line-${at}`}>
  <span role="gridcell" class="who" title=${row.id}>${short(row)}${row.role ? html` <span class="dim">${row.role}</span>` : null}</span>
  <span role="gridcell"><${State} row=${row} /></span>
  <span role="gridcell"><${KvBar} row=${row} /></span>
  <span role="gridcell" class="num wide">${count(row.context_tokens)}</span>
  <span role="gridcell" class="next" title=${row.why ?? ""}>${expected(row.expected_at, now())} <span class="dim">${row.why ?? ""}</span></span>
  <span role="gridcell" class="num ttft">${row.last_ttft_ms == null ? "–" : duration(row.last_ttft_ms / 1000)}</span>
  <span role="gridcell" class="num cost">${usd(row.cost_microusd)}</span></div>`;

// A row that has not changed is not drawn again while others scroll by.
class Row extends Component {
  shouldComponentUpdate(next) { return ["line", "at", "active", "shown"].some((name) => next[name] !== this.props[name]); }
  render({ line, at, active }) { return line.head ? Head({ line, at, active }) : Line({ line, at, active }); }
}

export function Agents() {
  const box = useRef(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  const [active, setActive] = useState(-1);
  const [words, setWords] = useState("");
  const rows = agents.value, shown = frame.value;
  const all = useMemo(() => lines(rows, words.trim().toLowerCase()), [rows, words]);

  useLayoutEffect(() => {
    const element = box.current;
    const size = new ResizeObserver(() => { if (box.current === element) setHeight(element.clientHeight - ROW); });
    size.observe(element);
    return () => size.disconnect();
  }, []);
  useEffect(() => {
    const element = box.current;
    let asked = 0;
    const scrolled = () => { asked ||= requestAnimationFrame(() => { asked = 0; setTop(Math.floor(element.scrollTop / STRIDE) * STRIDE); }); };
    element.addEventListener("scroll", scrolled, { passive: true });
    return () => element.removeEventListener("scroll", scrolled);
  }, []);

  const move = (event) => {
    const page = Math.max(1, Math.floor(height / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -all.length, End: all.length };
    if (event.key === "Enter" && all[active]) {
      const { row, session, tenant } = all[active];
      const id = row ? row.session_id : session;
      if (id) location.hash = route("session", id, row ? row.tenant : tenant);
    } else if (event.key in steps) {
      const next = Math.min(all.length - 1, Math.max(0, active + steps[event.key]));
      const element = box.current;
      if (next * ROW < element.scrollTop) element.scrollTop = next * ROW;
      if ((next + 1) * ROW > element.scrollTop + height) element.scrollTop = (next + 1) * ROW - height;
      setActive(next);
    } else return;
    event.preventDefault();
  };

  const first = Math.max(0, Math.floor(top / ROW) - MORE), last = Math.min(all.length, Math.ceil((top + STRIDE + height) / ROW) + MORE);
  return html`<section class="agents" aria-label="Agents">
    <div class="bar"><h2>Agents <span class="dim">${count(agents.value.length)}</span></h2>
      <input type="search" placeholder="Filter by name, session, role or state" aria-label="Filter agents" value=${words} onInput=${(e) => setWords(e.target.value)} /></div>
    <div role="grid" class="rows" ref=${box} tabindex="0" aria-label="Agents by tenant and session: arrow keys move, Enter opens the session" aria-rowcount=${all.length + 1}
        aria-activedescendant=${active >= first && active < last ? `line-${active}` : undefined} onKeyDown=${move}>
      <div role="rowgroup" class="heads"><div role="row" class="line titles" aria-rowindex="1">
        ${[["agent", "who"], ["state", ""], ["where its KV lies", ""], ["tokens", "num wide"], ["expected back", "next"], ["TTFT", "num ttft"], ["cost", "num cost"]]
          .map(([title, kind]) => html`<span role="columnheader" class=${kind}>${title}</span>`)}</div></div>
      <div role="rowgroup">
        <div role="presentation" class="all" style=${{ height: `${all.length * ROW}px` }}>
          <div role="presentation" style=${{ transform: `translateY(${first * ROW}px)` }}>
            ${all.slice(first, last).map((line, i) => html`<${Row} key=${line.name} line=${line} at=${first + i} active=${first + i === active} shown=${shown} />`)}
          </div></div>
        ${all.length === 0 ? html`<div role="row"><p role="gridcell" class="note">No agents${words ? " of that name" : " yet. A request makes one: try the playground"}.</p></div>` : null}
      </div></div></section>`;
}
