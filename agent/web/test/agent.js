// An agent's admin socket that tells of a world that was made up: what is asked of it and how is real, `lark
// dashboard` between it and the browser too.

import { createServer } from "node:http";

/** Serves it on a Unix socket. Resolves to a function that ends it. */
export async function serve(path, { answers }) {
  const server = createServer((request, response) => {
    const answer = answers[request.url.split("?")[0]];
    if (!answer) {
      response.writeHead(404).end("not found\n");
      return;
    }
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify(answer()));
  });
  await new Promise((ready) => server.listen(path, ready));
  return () => server.close();
}
