// A server that compresses its event streams with node's own zlib, one flush behind each event.
//
//   GET /CODING          headers at once, an event for each call of /next, and the end for /end
//   GET /next, /end      what the one stream under way does now; answers when that is done
//
// CODING: gzip, deflate, raw (deflate without the zlib format), br. It compresses whatever was asked for.

import http from "node:http";
import zlib from "node:zlib";

const CODERS = {
  gzip: () => zlib.createGzip(),
  deflate: () => zlib.createDeflate(),
  raw: () => zlib.createDeflateRaw(),
  br: () => zlib.createBrotliCompress(),
};
let coder = null;
let count = 0;

const server = http.createServer((request, response) => {
  const name = request.url.slice(1);
  if (name === "next") {
    count += 1;
    coder.write(`data: {"number":${count},"text":"é and more"}\n\n`);
    coder.flush(() => response.end("done"));
  } else if (name === "end") {
    coder.end(() => response.end("done"));
  } else {
    coder = CODERS[name]();
    count = 0;
    response.writeHead(200, {
      "Content-Type": "text/event-stream",
      "Content-Encoding": name === "raw" ? "deflate" : name,
      Vary: "Accept-Encoding",
    });
    response.flushHeaders();
    coder.pipe(response);
  }
});
server.listen(0, "127.0.0.1", () => console.error(`port ${server.address().port}`));
