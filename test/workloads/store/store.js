// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// A store over HTTP that keeps everything in memory, uses timers of each kind, and
// watches files that it writes.
'use strict';

const fs = require('node:fs');
const http = require('node:http');
const { randomUUID } = require('node:crypto');

const identity = `${process.pid}-${randomUUID()}`;
const values = new Map();
const problems = [];
const dir = '/data/watched';
const tickMillis = 50;
// A watch that has not told of a change after this many ticks has been lost.
const patience = 400;

let progress = 0;
let written = 0;
let seen = 0;
let last = process.hrtime.bigint();

function problem(text) {
  if (problems.length < 20) problems.push(text);
}

fs.mkdirSync(dir, { recursive: true });
fs.writeFileSync(`${dir}/beat`, '0');
fs.watch(dir, (event, name) => { if (name === 'beat') seen = written; });

setInterval(() => {
  const now = process.hrtime.bigint();
  if (now < last) problem(`the monotonic clock went back by ${last - now} ns`);
  if (now - last > 300_000_000_000n) problem(`the monotonic clock jumped by ${now - last} ns`);
  last = now;
  progress++;
}, tickMillis);

// One that arms itself again, and writes through the pool of threads.
let missed = 0;
(function beat() {
  setTimeout(() => {
    missed = seen < written ? missed + 1 : 0;
    if (missed === patience) problem(`a watch has not told of ${written - seen} changes`);
    written++;
    fs.writeFile(`${dir}/beat`, String(written), (err) => {
      if (err) problem(`write: ${err.message}`);
      beat();
    });
  }, tickMillis);
})();

http.createServer({ keepAliveTimeout: 3600_000 }, (req, res) => {
  const answer = (status, body = '') => { res.writeHead(status, { 'Content-Length': Buffer.byteLength(body) }); res.end(body); };
  const name = req.url.startsWith('/kv/') ? req.url.slice('/kv/'.length) : null;
  if (req.method === 'PUT' && name) {
    const parts = [];
    req.on('data', (part) => parts.push(part));
    req.on('end', () => { values.set(name, Buffer.concat(parts)); answer(201); });
  } else if (req.url === '/self') {
    answer(200, JSON.stringify({ identity, progress, problems }));
  } else if (name === '') {
    answer(200, JSON.stringify([...values.keys()]));
  } else if (name && values.has(name)) {
    answer(200, values.get(name));
  } else {
    answer(404);
  }
}).listen(8080, '0.0.0.0');
