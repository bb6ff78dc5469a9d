// The API as /openapi.json describes it, for people.
import { html, render } from "./vendor/htm-preact.mjs";
import { signal } from "./vendor/signals.mjs";
import { toggle } from "./theme.mjs";

const wanted = signal(""), api = signal(null);
const methods = ["get", "post", "patch", "delete"];

const name = (ref) => ref.slice(ref.lastIndexOf("/") + 1);
const Link = ({ to }) => html`<a href=${`#${to}`}>${to}</a>`;

// A type in a line: what a reader wants to know before the details.
function Kind({ of }) {
  if (!of || of === true) return "anything";
  if (of.$ref) return html`<${Link} to=${name(of.$ref)} />`;
  const either = of.anyOf ?? of.oneOf ?? of.allOf;
  if (either) return either.map((one, at) => html`${at ? (of.allOf ? " and " : " or ") : ""}<${Kind} of=${one} />`);
  if (of.const !== undefined) return html`<code>${JSON.stringify(of.const)}</code>`;
  if (of.enum) return of.enum.map((one, at) => html`${at ? " or " : ""}<code>${JSON.stringify(one)}</code>`);
  if (of.type === "array") return html`list of <${Kind} of=${of.items} />`;
  return html`${of.type ?? "anything"}${bounds(of)}`;
}

function bounds(of) {
  const said = [
    ["from", of.minimum ?? of.exclusiveMinimum], ["to", of.maximum ?? of.exclusiveMaximum], ["at most", of.maxLength && `${of.maxLength} characters`],
  ].filter(([, value]) => value !== undefined);
  return said.length ? ` (${said.map(([word, value]) => `${word} ${value}`).join(" ")})` : "";
}

const Fields = ({ of }) => html`<table><caption>Fields</caption>
  <thead><tr><th scope="col">name</th><th scope="col">type</th><th scope="col">what it is</th></tr></thead>
  <tbody>${Object.entries(of.properties ?? {}).map(([key, one]) => html`<tr>
    <th scope="row">${key}${(of.required ?? []).includes(key) ? html` <span class="dim">required</span>` : ""}</th>
    <td><${Kind} of=${one} /></td><td>${one.description ?? ""}</td></tr>`)}</tbody></table>`;

const Parameters = ({ of }) => (of.length ? html`<table><caption>Parameters</caption>
  <thead><tr><th scope="col">name</th><th scope="col">in</th><th scope="col">type</th></tr></thead>
  <tbody>${of.map((one) => html`<tr><th scope="row">${one.name}${one.required ? html` <span class="dim">required</span>` : ""}</th>
    <td>${one.in}</td><td><${Kind} of=${one.schema} /> ${one.description ?? ""}</td></tr>`)}</tbody></table>` : null);

const Content = ({ of }) => Object.entries(of ?? {}).map(([media, one]) => html`<div><code>${media}</code> <${Kind} of=${one.schema} /></div>`);

const Operation = ({ path, method, of }) => html`<section id=${of.operationId}>
  <h3><code>${method.toUpperCase()} ${path}</code></h3>
  <p>${of.summary}</p>${of.description ? html`<p class="dim">${of.description}</p>` : null}
  ${of.requestBody ? html`<p>Takes <${Content} of=${of.requestBody.content} /></p>` : null}
  <${Parameters} of=${of.parameters} />
  <table><caption>Answers</caption><tbody>${Object.entries(of.responses).map(([status, one]) => html`<tr>
    <th scope="row">${status}</th><td>${one.description}</td><td><${Content} of=${one.content} /></td></tr>`)}</tbody></table>
</section>`;

function Page() {
  if (api.value === null) return html`<p class="note">Loading.</p>`;
  const word = wanted.value.toLowerCase();
  const all = Object.entries(api.value.paths).flatMap(([path, one]) => methods.filter((m) => one[m]).map((method) => ({ path, method, of: one[method] })));
  const shown = all.filter(({ path, of }) => `${path} ${of.summary} ${of.tags}`.toLowerCase().includes(word));
  const types = Object.entries(api.value.components.schemas).filter(([key]) => !word || key.toLowerCase().includes(word));
  return html`<header><h1><a href="/docs">Stepwell ${api.value.info.version}: the HTTP API</a></h1>
    <nav aria-label="Elsewhere"><a href="/openapi.json">openapi.json</a><a href="/page">live page</a></nav>
    <button class="quiet" onClick=${toggle}>Dark or light</button></header>
  <main><section class="bar"><label>Find <input type="search" value=${wanted.value} onInput=${(event) => { wanted.value = event.target.value; }} /></label>
    <p class="dim" role="status">${shown.length} of ${all.length} routes</p></section>
    <h2>Routes</h2>
    ${shown.map((one) => html`<${Operation} key=${one.method + one.path} ...${one} />`)}
    <h2>Types</h2>
    ${types.map(([key, one]) => html`<section id=${key} key=${key}><h3>${key}</h3><p class="dim">${one.description ?? ""}</p><${Fields} of=${one} /></section>`)}
  </main>`;
}

render(html`<${Page} />`, document.getElementById("page"));
const answer = await fetch("/openapi.json");
api.value = await answer.json();
