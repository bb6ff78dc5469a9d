// The page: which view is open, and the form that asks for a key.
import { html } from "./vendor/htm-preact.mjs";
import { render } from "./vendor/preact.mjs";
import { useState } from "./vendor/hooks.mjs";
import { signal } from "./vendor/signals.mjs";
import { follow, frame, status, why } from "./watch.mjs";
import { call } from "./api.mjs";
import { Problem } from "./parts.mjs";
import { theme, toggle } from "./theme.mjs";
import { Strip } from "./strip.mjs";
import { Agents } from "./agents.mjs";
import { Charts } from "./charts.mjs";
import { Ticker } from "./ticker.mjs";
import { Session } from "./session.mjs";
import { Money } from "./money.mjs";
import { Documents } from "./documents.mjs";
import { Playground } from "./playground.mjs";

const place = signal(location.hash);
addEventListener("hashchange", () => { place.value = location.hash; });

function where(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const [view, ...id] = path.split("/");
  return { view: view || "agents", id: decodeURIComponent(id.join("/")), tenant: new URLSearchParams(query).get("tenant") };
}

function Key() {
  const [key, setKey] = useState("");
  const [error, setError] = useState(null);
  const enter = async (event) => {
    event.preventDefault();
    try {
      await call("/page/key", { method: "POST", json: { key } });
      setKey("");
      status.value = "connecting";
      follow();
    } catch (problem) { setError(problem); }
  };
  return html`<main class="key"><h1>Stepwell</h1><form onSubmit=${enter}>
    <input type="text" autocomplete="username" value="stepwell" hidden readonly />
    <label for="key">API key</label>
    <input id="key" type="password" autocomplete="current-password" required value=${key} onInput=${(e) => setKey(e.target.value)} />
    <button>Open</button><${Problem} error=${error} />
    <p class="note">The key is exchanged for a cookie that scripts cannot read and other sites cannot use. A key sees its own customer, an operator's key everything.</p></form></main>`;
}

const links = (now) => [["agents", "Agents"], ["documents", "Documents", now.library], ["playground", "Playground"], ["money", "Money", now.operator && now.ledger]]
  .filter(([, , there]) => there !== false);

function Top({ now, view }) {
  const live = status.value === "live";
  const leave = async () => { await call("/page/leave", { method: "POST" }); location.reload(); };
  return html`<header><h1><a href="#/">Stepwell</a></h1>
    <nav aria-label="Views">${links(now).map(([name, title]) => html`<a href=${name === "agents" ? "#/" : `#/${name}`} aria-current=${view === name ? "page" : undefined}>${title}</a>`)}</nav>
    <span class=${`link ${live ? "live" : "lost"}`} role="status">${live ? "live" : `not connected${why.value ? `: ${why.value}` : ""}`}</span>
    <button class="quiet" onClick=${toggle} aria-label=${`Change to the ${theme.value === "dark" ? "light" : "dark"} theme`}>${theme.value === "dark" ? "Light" : "Dark"}</button>
    ${now.keyed ? html`<button class="quiet" onClick=${leave}>Leave</button>` : null}</header>`;
}

function Page() {
  const { view, id, tenant } = where(place.value), now = frame.value;
  if (status.value === "locked") return html`<${Key} />`;
  if (!now) return html`<main><p class="note" role="status">${status.value === "lost" ? `The server cannot be reached: ${why.value}. Trying again.` : "Connecting."}</p></main>`;
  const views = {
    session: () => html`<${Session} key=${`${tenant} ${id}`} id=${id} tenant=${tenant} />`,
    money: () => html`<${Money} />`, documents: () => html`<${Documents} />`, playground: () => html`<${Playground} />`,
    agents: () => html`<${Strip} /><${Agents} /><div class="lower"><${Charts} /><${Ticker} /></div>`,
  };
  return html`<${Top} now=${now} view=${view} /><main>${(views[view] ?? views.agents)()}</main>`;
}

const root = document.getElementById("page");
root.textContent = "";
render(html`<${Page} />`, root);
follow();
