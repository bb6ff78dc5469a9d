// What the server shows, kept up to date from /v1/watch. `frame` changes once per event.
import { batch, signal } from "./vendor/signals.mjs";
import { call, events, Refused } from "./api.mjs";

export const status = signal("connecting"); // connecting, live, lost, locked
export const why = signal("");
export const frame = signal(null); // everything but the agents
export const agents = signal([]); // rows in order of tenant, session and id
export const history = signal([]);
export const ticker = signal([]);

const LINES = 200, POINTS = 180, CHANGES = 400;
const rows = new Map();
const changes = new Map(); // of each agent: [at, state] since this page was opened

export const nameOf = (row) => `${row.tenant ?? ""}\n${row.id}`;
export const changesOf = (row) => changes.get(nameOf(row)) ?? [];

let skew = 0; // the server's clock minus ours, in seconds
export const now = () => Date.now() / 1000 + skew;

function note(row, at) {
  const name = nameOf(row);
  let seen = changes.get(name);
  if (!seen) changes.set(name, (seen = []));
  const last = seen[seen.length - 1];
  if (!last || last[1] !== row.status) {
    seen.push([at, row.status]);
    if (seen.length > CHANGES) seen.shift();
  }
}

const order = (a, b) => {
  const one = [a.tenant ?? "", a.session_id ?? "", a.id], two = [b.tenant ?? "", b.session_id ?? "", b.id];
  for (let i = 0; i < 3; i += 1) if (one[i] !== two[i]) return one[i] < two[i] ? -1 : 1;
  return 0;
};

function hear(kind, data) {
  const { agents: told, ticker: lines, history: points, point, ...rest } = data;
  skew = data.at - Date.now() / 1000;
  batch(() => {
    if (kind === "full") {
      rows.clear();
      for (const row of told) rows.set(nameOf(row), row);
      for (const name of changes.keys()) if (!rows.has(name)) changes.delete(name);
      frame.value = rest;
      history.value = points;
      ticker.value = lines;
    } else {
      frame.value = { ...frame.value, ...rest };
      for (const row of told?.changed ?? []) {
        const old = rows.get(nameOf(row));
        rows.set(nameOf(row), old ? { ...old, ...row } : row);
      }
      for (const row of told?.gone ?? []) { rows.delete(nameOf(row)); changes.delete(nameOf(row)); }
      if (lines) ticker.value = [...ticker.value, ...lines].slice(-LINES);
      if (point) history.value = [...history.value, point].slice(-POINTS);
    }
    if (kind === "full" || told) {
      for (const row of kind === "full" ? told : told.changed) note(rows.get(nameOf(row)), data.at);
      agents.value = [...rows.values()].sort(order);
    }
    status.value = "live";
  });
}

let running = 0;
export async function follow() {
  const mine = (running += 1);
  let pause = 500;
  while (mine === running) {
    try {
      const answer = await call("/v1/watch");
      for await (const [kind, text] of events(answer)) {
        if (mine !== running) return;
        const data = JSON.parse(text);
        if (kind === "end") { why.value = data.reason; break; }
        hear(kind, data);
        pause = 500;
      }
    } catch (error) {
      if (error instanceof Refused && error.status === 401) {
        rows.clear(); changes.clear();
        batch(() => { agents.value = []; ticker.value = []; history.value = []; frame.value = null; status.value = "locked"; });
        return;
      }
      why.value = error.message;
    }
    if (mine !== running) return;
    status.value = "lost";
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(pause * 2, 15000);
  }
}
