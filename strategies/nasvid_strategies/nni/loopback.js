// Loaded into NNI's manager before its own code (node --require).
//
// The manager has no authentication, and no option for the address that it listens on: whoever
// reaches its port can run commands, any page in a browser of this machine included. So it listens
// on loopback; what comes to NASVID_NNI_HOST, where that is another address, is forwarded there. It
// answers only who has the token: the search, and a browser that was given it with the address of
// the pages. And it must not outlive the search that started it, however that ends.
const { timingSafeEqual } = require('crypto');
const http = require('http');
const net = require('net');
const os = require('os');

const LOOPBACK = '127.0.0.1';
const LEAVE = 100; // milliseconds in which the last answers are sent
const named = process.env.NASVID_NNI_HOST;
const everywhere = named === '0.0.0.0' || named === '::';
const host = everywhere ? named : LOOPBACK;

const token = process.env.NASVID_NNI_TOKEN;
delete process.env.NASVID_NNI_TOKEN; // trials do not need it

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

// Every request passes here, websockets too, before anything of the manager sees it.
const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, request, answer, ...rest) {
  const upgrades = event === 'upgrade' || event === 'connect';
  if (!upgrades && !['request', 'checkContinue', 'checkExpectation'].includes(event)) {
    return emit.call(this, event, request, answer, ...rest);
  }
  const why = refusal(request);
  if (why) {
    if (upgrades) answer.end(`HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n${why}\n`);
    else answer.writeHead(403, { 'Content-Type': 'text/plain', Connection: 'close' }).end(`${why}\n`);
    return true;
  }
  if (!upgrades && tokenOfAddress(request)) return enter(request, answer);
  return emit.call(this, event, request, answer, ...rest);
};

function refusal(request) {
  const asked = request.headers.host;
  if (!isOwn(asked)) return 'This is not an address of this page.';
  const origin = request.headers.origin;
  if (origin !== undefined && origin !== `http://${asked}` && origin !== `https://${asked}`) {
    return 'Requests of other sites are not answered.';
  }
  const given = [request.headers['x-nasvid-token'], cookie(request), tokenOfAddress(request)];
  if (given.some(matches)) return null;
  return 'Open the whole address that nasvid has printed, with its token.';
}

// A name that anybody may let point here (DNS rebinding) is not this machine's.
function isOwn(asked) {
  let name;
  try {
    name = new URL(`http://${asked}`).hostname.replace(/^\[|\]$/g, '');
  } catch {
    return false;
  }
  if (['localhost', LOOPBACK, '::1', named].includes(name)) return true;
  return everywhere && (net.isIP(name) !== 0 || name === os.hostname().toLowerCase());
}

function tokenOfAddress(request) {
  return new URLSearchParams(request.url.split('?').slice(1).join('?')).get('token');
}

// Cookies are shared by all ports of a host.
function cookieName(request) {
  return `nasvid-${request.socket.localPort}`;
}

function cookie(request) {
  const pairs = (request.headers.cookie || '').split(';').map((pair) => pair.trim().split('='));
  const found = pairs.find(([name]) => name === cookieName(request));
  return found && found[1];
}

function matches(given) {
  const [a, b] = [Buffer.from(given || ''), Buffer.from(token || '')];
  return b.length > 0 && a.length === b.length && timingSafeEqual(a, b);
}

// The token goes into a cookie, and out of the address, which is shown, kept and passed on. A page
// that leads to the next, and not a redirect: after a link on another site that would lack the cookie.
function enter(request, answer) {
  const next = request.url.split('?')[0].replace(/[^\w/.-]/g, '').replace(/^\/*/, '/');
  answer.writeHead(200, {
    'Content-Type': 'text/html',
    'Cache-Control': 'no-store',
    'Referrer-Policy': 'no-referrer',
    'Set-Cookie': `${cookieName(request)}=${token}; Path=/; HttpOnly; SameSite=Strict`,
  });
  answer.end(`<!doctype html><meta http-equiv="refresh" content="0;url=${next}">`);
  return true;
}

// The manager ends when nobody is connected to it any more. It would wait five seconds for browsers
// and clients that keep a connection for what they ask next.
const close = http.Server.prototype.close;
http.Server.prototype.close = function (...args) {
  setTimeout(() => this.closeAllConnections(), LEAVE).unref();
  return close.apply(this, args);
};

const parent = process.ppid;
const watch = setInterval(() => {
  if (process.ppid === parent) return;
  clearInterval(watch);
  process.kill(process.pid, 'SIGTERM'); // ends the trials and closes the database
  setTimeout(() => process.exit(1), 2000);
}, 500);
watch.unref();
