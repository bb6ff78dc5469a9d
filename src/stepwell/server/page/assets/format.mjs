// Numbers and times for people. Units are always said.
export const tiers = ["device", "host", "disk"];

const group = new Intl.NumberFormat("en");
export const count = (n) => (n == null ? "–" : group.format(Math.round(n)));

export function bytes(n) {
  if (n == null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${n >= 100 || unit === 0 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`;
}

export function usd(microusd) {
  if (microusd == null) return "–";
  const dollars = microusd / 1e6;
  return `$${Math.abs(dollars) >= 1 || dollars === 0 ? dollars.toFixed(2) : dollars.toPrecision(3)}`;
}

export function duration(seconds) {
  if (seconds == null) return "–";
  const s = Math.abs(seconds);
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 60) return `${s.toFixed(s < 10 ? 1 : 0)} s`;
  if (s < 3600) return `${Math.round(s / 60)} min`;
  return `${(s / 3600).toFixed(1)} h`;
}

export function expected(at, now) {
  if (at == null) return "";
  return at <= now ? `due ${duration(now - at)} ago` : `in ${duration(at - now)}`;
}

export const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");

export const states = {
  running: "running", loading: "loading", waiting: "waiting", preempted: "preempted",
  idle: "idle", budget_reached: "budget reached",
};
