// Fetches a URL with Node's http and prints the body.
import http from "node:http";

http
  .get(process.argv[2], (response) => response.pipe(process.stdout))
  .on("error", (error) => {
    console.error(error.code);
    process.exit(1);
  });
