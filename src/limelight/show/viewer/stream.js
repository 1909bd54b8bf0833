// Asking the server: a question's answer is a stream of events; hanging up stops the work.

const PATIENCE = 20; // times that a busy server is asked again
const GONE = "no answer; is limelight serve still running?";

// What a promise brings; where the connection fails, which a browser calls a TypeError, an error in words.
async function connected(promise) {
  try {
    return await promise;
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(GONE, { cause: error });
  }
}

// The answer of a request that may find the server busy. Throws an Error with the server's own words.
export async function ask(path, options, busy = () => {}) {
  for (let times = 0; ; times += 1) {
    const response = await connected(fetch(path, options));
    if (response.ok) return response;
    const words = await response.json().then((body) => body.detail, () => response.statusText);
    if (response.status !== 429 || times >= PATIENCE) throw new Error(words);
    busy(words);
    await new Promise((resolve) => setTimeout(resolve, 1000 * Number(response.headers.get("retry-after") ?? 1)));
    options.signal?.throwIfAborted();
  }
}

// Each server-sent event of a response as [name, data], up to the last: "done" or "stopped". Throws an Error where the
// answer breaks off before.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await connected(reader.read());
    if (done) throw new Error(GONE);
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const found = /^event: (.*)\ndata: (.*)$/.exec(part);
      if (!found) continue;
      yield [found[1], JSON.parse(found[2])];
      if (["done", "stopped"].includes(found[1])) return;
    }
  }
}
