// Dark or light: the system's, unless a person has chosen.
import { effect, signal } from "./vendor/signals.mjs";

const system = matchMedia("(prefers-color-scheme: dark)");
const chosen = signal(localStorage.getItem("theme"));
export const theme = signal("light");
const apply = () => { theme.value = chosen.value ?? (system.matches ? "dark" : "light"); };
system.addEventListener("change", apply);
effect(apply);
effect(() => { document.documentElement.dataset.theme = theme.value; });

export function toggle() {
  const next = theme.value === "dark" ? "light" : "dark";
  localStorage.setItem("theme", next);
  document.documentElement.dataset.theme = next;
  chosen.value = next;
}
