// Asks for everything with Node's fetch (`fetch URL`) or with undici's request (`undici URL FOLDER`, where FOLDER has
// undici), and prints what it got.
import { createHash } from "node:crypto";
import { createRequire } from "node:module";

const [which, base, folder] = process.argv.slice(2);

async function* chunks() {
  yield Buffer.from("first");
  yield Buffer.from("second, which is longer");
  yield Buffer.alloc(70_000, "x");
}

async function withFetch(method, path, body, headers) {
  const duplex = typeof body?.next === "function" ? "half" : undefined;
  const response = await fetch(base + path, { method, body, headers, duplex });
  const content = Buffer.from(await response.arrayBuffer());
  return [response.status, response.statusText, [...response.headers], content];
}

function withUndici() {
  const { Client } = createRequire(`${folder}/`)("undici");
  const client = new Client(base);
  return async (method, path, body, headers) => {
    const response = await client.request({ method, path, body, headers });
    const content = Buffer.from(await response.body.arrayBuffer());
    return [response.statusCode, response.headers, response.trailers, content];
  };
}

const ask = which === "fetch" ? withFetch : withUndici();

async function show(method, path, body, headers) {
  const seen = await ask(method, path, body, headers);
  const digest = createHash("sha256").update(seen.pop()).digest("hex");
  console.log(method, path, JSON.stringify(seen), digest);
}

for (const path of "/plain /chunked /trailers /early /none /plain /old /old-kept /large /large-chunked".split(" ")) {
  await show("GET", path);
}
await show("HEAD", "/plain");
await show("POST", "/plain", "a body of known length");
await show("POST", "/plain", Buffer.alloc(300_000, "z"));
await show("POST", "/chunked", chunks());
await show("PUT", "/plain", "put", { "X-oDD-Case": "1", "x-second": "2" });
await show("DELETE", "/none");
process.exit(0);
