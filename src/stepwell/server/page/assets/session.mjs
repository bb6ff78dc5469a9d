// One session: its tree of agents over time, and the bill.
import { html } from "./vendor/htm-preact.mjs";
import { useEffect, useState } from "./vendor/hooks.mjs";
import { agents, changesOf, frame, now } from "./watch.mjs";
import { KvBar, Problem, route, State } from "./parts.mjs";
import { call, get } from "./api.mjs";
import { clock, count, usd } from "./format.mjs";

function tree(rows) {
  const names = new Set(rows.map((row) => row.id)), below = new Map();
  for (const row of rows) {
    const above = names.has(row.parent_agent_id) && row.parent_agent_id !== row.id ? row.parent_agent_id : "";
    below.set(above, [...(below.get(above) ?? []), row]);
  }
  const found = [], seen = new Set();
  const walk = (above, depth) => {
    for (const row of below.get(above) ?? []) {
      if (seen.has(row.id)) continue;
      seen.add(row.id);
      found.push([row, depth]);
      walk(row.id, depth + 1);
    }
  };
  walk("", 0);
  for (const row of rows) if (!seen.has(row.id)) found.push([row, 0]);
  return found;
}

function Track({ row, from, until }) {
  const seen = changesOf(row), width = Math.max(1, until - from);
  return html`<span class="track" role="img" aria-label=${`${row.id}: ${seen.length} changes of state`}>
    ${seen.map(([at, state], i) => {
      const end = seen[i + 1]?.[0] ?? until;
      return html`<i class=${state} title=${`${state} from ${clock(at)}`} style=${{ left: `${(100 * (at - from)) / width}%`, width: `${Math.max(0.3, (100 * (end - at)) / width)}%` }}></i>`;
    })}</span>`;
}

function Budget({ id, query, session, changed }) {
  const [cents, setCents] = useState("");
  const [error, setError] = useState(null);
  const limit = session.spend_control.limit;
  const save = async (event) => {
    event.preventDefault();
    try {
      await call(`/v1/sessions/${encodeURIComponent(id)}${query}`, { method: "POST", json: { spend_control: { limit: cents === "" ? null : Number(cents) } } });
      setError(null);
      changed();
    } catch (problem) { setError(problem); }
  };
  return html`<form class="inline" onSubmit=${save}>
    <label>Budget in USD cents (now ${limit == null ? "none" : limit}) <input type="number" min="0" step="any" value=${cents} onInput=${(e) => setCents(e.target.value)} /></label>
    <button>Set</button><${Problem} error=${error} /></form>`;
}

// An operator who comes by a link that names no customer chooses one, where several have a session of this name.
export function Session({ id, tenant }) {
  const owners = [...new Set(agents.value.filter((row) => row.session_id === id).map((row) => row.tenant))];
  if (tenant || owners.length < 2) return html`<${OneSession} id=${id} tenant=${tenant ?? owners[0]} />`;
  return html`<section aria-label=${`Session ${id}`}><p><a href="#/">← all agents</a></p><h2>Session ${id}</h2>
    <p>Several customers have a session of this name:</p>
    <ul>${owners.map((owner) => html`<li><a href=${route("session", id, owner)}>${owner}</a></li>`)}</ul></section>`;
}

function OneSession({ id, tenant }) {
  const [session, setSession] = useState(null);
  const [error, setError] = useState(null);
  const [asked, setAsked] = useState(0);
  const query = tenant && frame.value?.operator ? `?tenant=${encodeURIComponent(tenant)}` : "";
  const rows = agents.value.filter((row) => row.session_id === id && (!tenant || row.tenant == null || row.tenant === tenant));
  const ledger = frame.value?.ledger;
  useEffect(() => {
    if (!ledger) return undefined;
    let over = false;
    const look = () => get(`/v1/sessions/${encodeURIComponent(id)}${query}`)
      .then((found) => { if (!over) { setSession(found); setError(null); } }, (problem) => { if (!over && problem.status !== 404) setError(problem); });
    look();
    const again = setInterval(look, 5000);
    return () => { over = true; clearInterval(again); };
  }, [id, query, ledger, asked]);

  const until = now(), from = Math.min(until - 10, ...rows.flatMap((row) => changesOf(row).slice(0, 1).map(([at]) => at)));
  const known = rows.filter((row) => row.cost_microusd != null).reduce((sum, row) => sum + row.cost_microusd, 0);
  return html`<section aria-label=${`Session ${id}`}>
    <p><a href="#/">← all agents</a></p>
    <h2>Session ${id}${tenant ? html` <span class="dim">of ${tenant}</span>` : null}</h2>
    <${Problem} error=${error} />
    ${rows.length === 0 ? html`<p class="note">No agent of this session is known now. ${session ? "" : "It appears here with its first request."}</p>` : null}
    ${rows.length ? html`<div class="tree" role="table" aria-label="Agents over time" tabindex="0">
      <div role="row" class="titles"><span role="columnheader">agent</span><span role="columnheader">state</span><span role="columnheader">KV</span>
        <span role="columnheader">${clock(from)} to ${clock(until)}</span><span role="columnheader" class="num">turns</span><span role="columnheader" class="num">tokens</span><span role="columnheader" class="num">cost</span></div>
      ${tree(rows).map(([row, depth]) => html`<div role="row" key=${row.id}>
        <span role="cell" class="who" style=${{ paddingLeft: `${depth * 1.2}rem` }} title=${row.id}>${depth ? "└ " : ""}${row.id.startsWith(`${id}/`) ? row.id.slice(id.length + 1) : row.id}</span>
        <span role="cell"><${State} row=${row} /></span><span role="cell"><${KvBar} row=${row} /></span>
        <span role="cell"><${Track} row=${row} from=${from} until=${until} /></span>
        <span role="cell" class="num">${count(row.turns)}</span><span role="cell" class="num">${count(row.context_tokens)}</span><span role="cell" class="num">${usd(row.cost_microusd)}</span></div>`)}
    </div>` : null}
    <h3>The bill</h3>
    ${ledger ? html`<p>${session ? html`Charged <b>${usd(session.consumed_usd * 1e6)}</b>${session.held_usd ? html`, held ${usd(session.held_usd * 1e6)}` : null}, status ${session.status}. ` : null}
      The agents above: ${usd(known)}.</p>` : html`<p class="note">This server keeps no ledger.</p>`}
    ${session ? html`<${Budget} id=${id} query=${query} session=${session} changed=${() => setAsked(asked + 1)} />` : null}
  </section>`;
}
