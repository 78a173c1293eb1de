// A child for Node.js. It speaks the JSON serializer, as README.md describes the bytes.
'use strict';

const MAGIC = Buffer.from([0xf3, 0x4a, 0x9d, 0xe2]);

// Frames: magic, length of the payload as a 32-bit big-endian number, payload.

function send(envelope) {
  const payload = Buffer.from(JSON.stringify(envelope), 'utf8');
  const head = Buffer.alloc(8);
  MAGIC.copy(head);
  head.writeUInt32BE(payload.length, 4);
  process.stdout.write(Buffer.concat([head, payload]));
}

let input = Buffer.alloc(0);
process.stdin.on('data', (chunk) => {
  input = Buffer.concat([input, chunk]);
  for (;;) {
    const start = input.indexOf(MAGIC);
    if (start < 0) {
      input = input.subarray(Math.max(0, input.length - 3)); // may hold the start of a magic
      return;
    }
    input = input.subarray(start);
    if (input.length < 8) return;
    const end = 8 + input.readUInt32BE(4);
    if (input.length < end) return;
    const payload = input.subarray(8, end);
    input = input.subarray(end);
    receive(JSON.parse(payload.toString('utf8')));
  }
});

// Requests that this side made, by id.
const pending = new Map();
let lastId = 0;

function request(type, body) {
  return new Promise((resolve, reject) => {
    lastId += 1;
    pending.set(lastId, { resolve, reject });
    send({ kind: 'request', id: lastId, type, timeout: 30, body });
  });
}

function receive(envelope) {
  const { kind, id, type, body } = envelope;
  if (kind === 'request') {
    answer(id, type, body);
  } else if (kind === 'response' && pending.has(id)) {
    pending.get(id).resolve(body);
    pending.delete(id);
  } else if (kind === 'error' && pending.has(id)) {
    pending.get(id).reject(new Error(body.message));
    pending.delete(id);
  }
  // Other kinds, and replies to nothing, are of no use here.
}

async function answer(id, type, body) {
  const handler = handlers[type];
  if (!handler) {
    const message = `no handler for ${type}`;
    send({ kind: 'error', id, code: 'unhandled', body: { message } });
    return;
  }
  try {
    send({ kind: 'response', id, ...(await handler(body)) });
  } catch (error) {
    const problem = { message: error.message, type: error.name, traceback: error.stack };
    send({ kind: 'error', id, code: 'handler', body: problem });
  }
}

// What this child does.

const handlers = {
  'words.CountWords': async ({ text }) => {
    if (text === '') throw new RangeError('there is nothing to count');
    const words = text.toLowerCase().match(/\p{Letter}+/gu) ?? [];
    const counts = Object.create(null);
    for (const word of words) {
      if (word in counts || !(await request('words.IsStopWord', { word }))) {
        counts[word] = (counts[word] ?? 0) + 1;
      }
    }
    const longest = words.reduce((a, b) => (b.length > a.length ? b : a), '');
    return { type: 'words.WordCount', body: { words: words.length, longest, counts } };
  },
};

send({ kind: 'notification', type: 'words.Ready', body: { runtime: 'Node.js' } });
