// As keepalive.py, with undici: `keepalive.mjs FOLDER URL CLIENTS REQUESTS REST_MS METHOD...`, FOLDER having undici.
import { createRequire } from "node:module";
import { setTimeout } from "node:timers/promises";

const [folder, base, clients, requests, rest, ...methods] = process.argv.slice(2);
const { Client } = createRequire(`${folder}/`)("undici");
const url = new URL(base);
let good = 0;

async function run(number) {
  // undici would avoid a connection that has rested for long; this one knows nothing of the server's time-out.
  const client = new Client(url.origin, { keepAliveTimeout: 60_000 });
  for (let done = 0; done < requests; done++) {
    const path = `${url.pathname}/js${number}-${done}`;
    try {
      const response = await client.request({ method: methods[done % methods.length], path });
      await response.body.dump();
      if (response.statusCode === 200) good++;
      else console.log("failed", path, response.statusCode);
    } catch (error) {
      console.log("failed", path, error.code);
    }
    await setTimeout(((number * 31 + done * 17) % 10) / 10 * rest);
  }
  await client.close();
}

await Promise.all([...Array(Number(clients)).keys()].map(run));
console.log("good", good);
