// A stock Node server that refuses uploads at once, without reading them, and has a door that only relay's routes guard.
// Arguments: where it listens (a port or a path), and for how many milliseconds it is busy before it refuses.
import http from "node:http";

const [where, busy] = process.argv.slice(2);

const server = http.createServer((request, response) => {
  console.log(`${request.method} ${request.url} ${request.headers["x-api-key"] ?? ""}`);
  if (request.url === "/upload") {
    const until = Date.now() + Number(busy);
    while (Date.now() < until);
    response.writeHead(401, { "content-length": 2 }).end("no");
    return;
  }
  request.resume().on("end", () => response.end(`answer to ${request.url}`));
});
server.on("clientError", (error, socket) => {
  console.log(`nonsense ${error.code}`);
  socket.destroy();
});
server.listen(/^\d+$/.test(where) ? { port: Number(where), host: "127.0.0.1" } : where, () => {
  console.error("ready");
});
