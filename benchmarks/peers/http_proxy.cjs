// node http-proxy, the proxy under development servers, and under Next.js rewrites until 2026.
// usage: node http_proxy.cjs FOLDER_OF_NODE_MODULES LISTEN ORIGIN
const [folder, listen, origin] = process.argv.slice(2);
const http = require('node:http');
const { createProxyServer } = require('node:module').createRequire(folder + '/')('http-proxy');

const proxy = createProxyServer({
  target: `http://127.0.0.1:${origin}`,
  // Without an agent every request would dial and close.
  agent: new http.Agent({ keepAlive: true, maxSockets: Infinity, maxFreeSockets: 256 }),
  // What relay writes as well.
  xfwd: true,
});
proxy.on('error', (error, request, response) => {
  if (response && !response.headersSent) response.writeHead(502);
  if (response) response.end();
});
const server = http.createServer((request, response) => proxy.web(request, response));
// Idle clients are not cut inside a run.
server.keepAliveTimeout = 3600_000;
server.requestTimeout = 0;
server.listen({ host: '127.0.0.1', port: Number(listen), backlog: 4096 });
