// Loaded into NNI's manager before its own code (node --require).
//
// The manager has no authentication, and no option for the address that it listens on: whoever
// reaches its port can run commands. So it listens on loopback, where the search and the trials
// reach it; what comes to NASVID_NNI_HOST, where that is another address, is forwarded there. And it
// must not outlive the search that started it, however that ends.
const net = require('net');

const LOOPBACK = '127.0.0.1';
const named = process.env.NASVID_NNI_HOST;
const everywhere = named === '0.0.0.0' || named === '::';
const host = everywhere ? named : LOOPBACK;

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  if (typeof args[0] === 'number' && typeof args[1] !== 'string') {
    args.splice(1, 0, host);
    forward(args[0]);
  } else if (args[0] && typeof args[0] === 'object' && args[0].port !== undefined && !args[0].host) {
    args[0] = { ...args[0], host };
    forward(args[0].port);
  }
  return listen.apply(this, args);
};

function forward(port) {
  if (everywhere || named === LOOPBACK) return;
  const server = net.createServer((outer) => {
    const inner = net.connect(port, LOOPBACK);
    outer.pipe(inner).pipe(outer);
    outer.on('error', () => inner.destroy());
    inner.on('error', () => outer.destroy());
  });
  listen.call(server, port, named);
}

const parent = process.ppid;
const watch = setInterval(() => {
  if (process.ppid === parent) return;
  clearInterval(watch);
  process.kill(process.pid, 'SIGTERM'); // ends the trials and closes the database
  setTimeout(() => process.exit(1), 2000);
}, 500);
watch.unref();
