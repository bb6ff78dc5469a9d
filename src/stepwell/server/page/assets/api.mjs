// Calls to the server. The cookie says who asks; the header says that it was this page that asked.
export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = error?.code ?? null;
  }
}

export async function call(path, { method = "GET", json, form, signal, headers = {} } = {}) {
  const asked = { method, signal, headers: { ...headers, "X-Stepwell-Page": "1" }, credentials: "same-origin" };
  if (json !== undefined) {
    asked.body = JSON.stringify(json);
    asked.headers["Content-Type"] = "application/json";
  }
  if (form !== undefined) asked.body = form;
  const answer = await fetch(path, asked);
  if (!answer.ok) {
    let error = null;
    try { error = (await answer.json()).error; } catch { /* not JSON: the status says enough */ }
    throw new Refused(answer.status, error);
  }
  return answer;
}

export const get = async (path) => (await call(path)).json();

// The events of a stream: [name, data].
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      let end;
      while ((end = rest.indexOf("\n\n")) >= 0) {
        const lines = rest.slice(0, end).split("\n");
        rest = rest.slice(end + 2);
        let name = "message", data = "";
        for (const line of lines) {
          if (line.startsWith("event: ")) name = line.slice(7);
          else if (line.startsWith("data: ")) data += line.slice(6);
        }
        if (data) yield [name, data];
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
