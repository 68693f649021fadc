// Loaded into NNI's manager before its own code (node --require).
//
// The manager has no authentication, and no option for the address that it listens on: whoever
// reaches its port can run commands. So it listens where NASVID_NNI_HOST says. And it must not
// outlive the search that started it, however that ends.
const net = require('net');

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  if (typeof args[0] === 'number' && typeof args[1] !== 'string') {
    args.splice(1, 0, process.env.NASVID_NNI_HOST);
  } else if (args[0] && typeof args[0] === 'object' && args[0].port !== undefined && !args[0].host) {
    args[0] = { ...args[0], host: process.env.NASVID_NNI_HOST };
  }
  return listen.apply(this, args);
};

const parent = process.ppid;
const watch = setInterval(() => {
  if (process.ppid === parent) return;
  clearInterval(watch);
  process.kill(process.pid, 'SIGTERM'); // ends the trials and closes the database
  setTimeout(() => process.exit(1), 2000);
}, 500);
watch.unref();
