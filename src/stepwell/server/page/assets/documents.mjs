// The library: upload, prewarm, search.
import { html } from "./vendor/htm-preact.mjs";
import { useEffect, useState } from "./vendor/hooks.mjs";
import { call, get } from "./api.mjs";
import { Problem } from "./parts.mjs";
import { bytes } from "./format.mjs";

export function Documents() {
  const [files, setFiles] = useState(null);
  const [error, setError] = useState(null);
  const [said, setSaid] = useState("");
  const [found, setFound] = useState(null);
  const [query, setQuery] = useState("");

  const attempt = async (doing, work) => {
    setSaid(doing);
    try { setSaid((await work()) ?? ""); setError(null); } catch (problem) { setSaid(""); setError(problem); }
  };
  const list = async () => { setFiles((await get("/v1/files?limit=100&order=desc")).data); };
  useEffect(() => { attempt("", list); }, []);
  const upload = (event) => {
    const [file] = event.target.files;
    if (!file) return;
    attempt(`Reading ${file.name}`, async () => {
      const form = new FormData();
      form.append("purpose", "user_data");
      form.append("file", file);
      await call("/v1/files", { method: "POST", form });
      await list();
      return `${file.name} is in the library.`;
    });
    event.target.value = "";
  };
  const prewarm = (file) => attempt(`Computing the KV of ${file.filename}`, async () => {
    const made = await (await call(`/v1/files/${file.id}/prewarm`, { method: "POST", json: {} })).json();
    return `${file.filename}: ${made.usage.prompt_tokens} tokens are warm for ${Math.round(made.retain_s / 60)} minutes.`;
  });
  const remove = (file) => attempt(`Removing ${file.filename}`, async () => {
    await call(`/v1/files/${file.id}`, { method: "DELETE" });
    await list();
    return `${file.filename} is gone.`;
  });
  const search = (event) => {
    event.preventDefault();
    attempt("Searching", async () => {
      const answer = await (await call("/v1/files/search", { method: "POST", json: { query } })).json();
      setFound(answer.data);
      return answer.data.length ? "" : "No passage has these words.";
    });
  };
  return html`<section aria-label="Documents"><h2>Documents</h2>
    <p><label class="upload">Add a document <input type="file" onChange=${upload} /></label></p>
    <p role="status" class="dim">${said}</p><${Problem} error=${error} />
    ${files && files.length ? html`<table><caption>In the library</caption><thead><tr><th scope="col">name</th><th scope="col" class="num">size</th><th scope="col">kept as</th><th scope="col"><span class="sr">actions</span></th></tr></thead>
      <tbody>${files.map((file) => html`<tr key=${file.id}><th scope="row">${file.filename}</th><td class="num">${bytes(file.bytes)}</td><td class="dim">${file.id}</td>
        <td class="acts"><button onClick=${() => prewarm(file)}>Prewarm</button> <button class="quiet" onClick=${() => remove(file)}>Remove</button></td></tr>`)}</tbody></table>`
      : files ? html`<p class="note">No documents yet.</p>` : null}
    <form class="inline" onSubmit=${search}><label>Search <input type="search" required value=${query} onInput=${(e) => setQuery(e.target.value)} /></label><button>Find passages</button></form>
    ${(found ?? []).map((hit) => html`<blockquote><p>${hit.content[0].text}</p><footer class="dim">${hit.filename}, characters ${hit.start} to ${hit.end}</footer></blockquote>`)}
  </section>`;
}
