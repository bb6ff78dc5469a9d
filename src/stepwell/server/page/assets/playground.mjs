// A talk with the model, as an agent of one's own.
import { html } from "./vendor/htm-preact.mjs";
import { useRef, useState } from "./vendor/hooks.mjs";
import { signal } from "./vendor/signals.mjs";
import { call, events } from "./api.mjs";
import { agents, frame } from "./watch.mjs";
import { KvBar, Problem, route, State } from "./parts.mjs";

const session = `page-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
const talk = signal([]);
const note = signal("");

export function Playground() {
  const [words, setWords] = useState("");
  const [error, setError] = useState(null);
  const stop = useRef(null);
  const [busy, setBusy] = useState(false);
  const row = agents.value.find((one) => one.session_id === session);

  const send = async (event) => {
    event.preventDefault();
    if (busy || !words.trim()) return;
    const messages = [...talk.value, { role: "user", content: words.trim() }];
    talk.value = [...messages, { role: "assistant", content: "" }];
    setWords(""); setBusy(true); setError(null); note.value = "";
    stop.current = new AbortController();
    let text = "";
    try {
      const answer = await call("/v1/chat/completions", {
        method: "POST", signal: stop.current.signal,
        headers: { "X-Session-ID": session, "X-Agent-ID": "me", "X-Agent-Name": "playground", "X-Agent-Next": "person" },
        json: { model: frame.value.model, messages, stream: true, stream_options: { include_usage: true }, max_tokens: 400 },
      });
      for await (const [, data] of events(answer)) {
        if (data === "[DONE]") break;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Error(chunk.error.message);
        text += chunk.choices?.[0]?.delta?.content ?? "";
        talk.value = [...messages, { role: "assistant", content: text }];
        if (chunk.usage) {
          const { prompt_tokens: prompt, completion_tokens: made, prompt_tokens_details: details, cost } = chunk.usage;
          note.value = `${prompt} prompt tokens, ${details?.cached_tokens ?? 0} of them cached; ${made} generated${cost == null ? "" : `; $${cost.toFixed(6)}`}`;
        }
      }
    } catch (problem) {
      if (problem.name !== "AbortError") { setError(problem); talk.value = text ? talk.value : messages.slice(0, -1); }
    }
    setBusy(false);
  };
  const enter = (event) => { if (event.key === "Enter" && !event.shiftKey) send(event); };
  return html`<section aria-label="Playground"><h2>Playground <span class="dim">${frame.value?.model}</span></h2>
    <div class="talk" role="log" aria-label="The talk" tabindex="0" aria-live="polite" aria-busy=${busy}>
      ${talk.value.length === 0 ? html`<p class="note">You are an agent of the session <a href=${route("session", session, row?.tenant)}>${session}</a>.</p>` : null}
      ${talk.value.map((one) => html`<div class=${`said ${one.role}`}><b>${one.role === "user" ? "you" : "model"}</b><p>${one.content}</p></div>`)}</div>
    <form onSubmit=${send}><label class="sr" for="words">Message</label>
      <textarea id="words" rows="3" placeholder="Enter sends, Shift+Enter breaks the line" value=${words} onInput=${(e) => setWords(e.target.value)} onKeyDown=${enter}></textarea>
      <div class="bar"><button disabled=${busy}>Send</button>
        ${busy ? html`<button type="button" class="quiet" onClick=${() => stop.current.abort()}>Stop</button>` : null}
        <button type="button" class="quiet" onClick=${() => { talk.value = []; note.value = ""; }}>New talk</button><span class="dim" role="status">${note.value}</span></div></form>
    <${Problem} error=${error} />
    ${row ? html`<p class="mine"><${State} row=${row} /> <${KvBar} row=${row} /> <span class="dim">${row.why ?? ""}</span></p>` : null}
  </section>`;
}
