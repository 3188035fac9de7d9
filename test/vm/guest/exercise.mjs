/**
 * Runs in the appliance: writes, reads and verifies disks through the bdev layer, and prints what it did as one JSON line.
 * node exercise.mjs '{"attach": [{"nvme": "0000:00:06.0"}, {"virtio": "0000:00:05.0"}], "seconds": 5, …}'
 */
import { createHash } from 'node:crypto';
import { BdevIo, BdevOp, BdevStatus } from '/opt/vvu-target/dist/bdev/bdev.js';
import { DeviceDisks } from '/opt/vvu-target/dist/bdev/device-disks.js';
import { openChannel } from '/opt/vvu-target/dist/bdev/open-channel.js';
import { SgList } from '/opt/vvu-target/dist/memory/sg-list.js';
import { EventLoop } from '/opt/vvu-target/dist/sys/event-loop.js';
import { mapFile, memfd } from '/opt/vvu-target/dist/sys/mapping.js';

const options = {
  depths: [1, 8, 64],
  rounds: 40,
  maxBytes: 1 << 20,
  seed: 1,
  // Milliseconds between resets; each waits for a request that ended since the last.
  reset: 0,
  hugepages: true,
  // Without a request's end, or in all: then it is given up, and what was outstanding is told. Seconds.
  patience: 120,
  limit: 540,
  ...JSON.parse(process.argv[2]),
};
const told = [];
const note = (what) => (bdev) => told.push(`${what} ${bdev.info.name}`);
const disks = new DeviceDisks(
  { added: note('added'), removed: note('removed'), resized: note('resized') },
  { hugepages: options.hugepages },
);

let seed = options.seed;
const random = (n) => {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return Math.floor((seed / 2 ** 32) * n);
};
const nameOf = (status) => Object.keys(BdevStatus).find((k) => BdevStatus[k] === status);

const started = Date.now();
/** What is going on: for the resets, and for the one who asks why nothing goes on. */
const now = { step: 'attaching', channel: undefined, out: new Map(), ends: 0, lastEnd: started, resets: 0 };

/** Tell what is outstanding, and end. */
function giveUp(why) {
  const { channel } = now;
  const at = Date.now();
  const stuck = {
    step: now.step,
    ends: now.ends,
    resets: now.resets,
    outstanding: [...now.out].map(([io, since]) => ({
      op: Object.keys(BdevOp).find((k) => BdevOp[k] === io.op),
      lba: io.lba,
      blocks: io.blocks,
      segments: io.sg.count,
      ms: at - since,
    })),
    inFlight: channel?.inFlight,
    queue: channel && { open: channel.queue.open, dead: channel.queue.dead, bounces: channel.queue.freeBuffers },
    ring: channel?.queue.pair.dump(),
    loop: loop.stats,
    devices: [...disks.describe('nvme'), ...disks.describe('virtio')],
  };
  console.log(
    `RESULT ${JSON.stringify({ error: `${why}: ${JSON.stringify(stuck)}`, told, attached: [], after: [], disks: [] })}`,
  );
  process.exit(1);
}
setInterval(() => {
  const quiet = Date.now() - now.lastEnd;
  if (quiet > options.patience * 1000) giveUp(`no request has ended for ${quiet} ms`);
  if (Date.now() - started > options.limit * 1000) giveUp(`not done after ${options.limit} s`);
}, 5000).unref();

/** A guest's memory: a file, mapped and given to the channel like that of a VM. */
function guestMemory(bytes) {
  const fd = memfd('guest', bytes, { hugepages: false });
  const mapping = mapFile(fd, { size: bytes });
  fd.close();
  return mapping.memoryAt(0, bytes);
}

async function exercise(bdev, loop) {
  const channel = openChannel(bdev.share(), loop);
  const { blockSize, numBlocks } = bdev.info;
  const size = numBlocks * blockSize;
  const model = new Uint8Array(size);
  const counts = {};
  let commands = 0;
  let verified = 0;
  const wrong = [];
  // One half of the requests is in memory that the device reaches, the other in memory it does not know.
  const near = guestMemory(80 << 20);
  const far = guestMemory(80 << 20);
  channel.memoryAdded?.(near);
  now.channel = channel;
  now.step = bdev.info.name;
  const submit = (io) =>
    new Promise((resolve) => {
      io.owner = {
        ioDone() {
          now.out.delete(io);
          now.ends++;
          now.lastEnd = Date.now();
          resolve();
        },
      };
      now.out.set(io, Date.now());
      channel.submit(io);
    });
  const request = async (op, lba, blocks, place) => {
    const bytes = blocks * blockSize;
    const io = new BdevIo({ ioDone() {} });
    io.op = op;
    io.lba = lba;
    io.blocks = blocks;
    io.sg = new SgList(32);
    const memory = place.memory;
    // Segments of odd lengths at odd places.
    let at = place.at + [0, 0, 512, 4096, 1, 1234][random(6)];
    for (let left = bytes; left > 0; ) {
      const cut = [left, left, 4096, 8192, 512, 1000][random(6)];
      const n = io.sg.count === 30 ? left : Math.min(left, cut);
      io.sg.push(memory, at, n);
      at += n + [0, 0, 4096, 100][random(4)];
      left -= n;
    }
    const bytesOf = () => {
      const all = new Uint8Array(bytes);
      let to = 0;
      for (let i = 0; i < io.sg.count; i++) {
        all.set(memory.u8.subarray(io.sg.offset[i], io.sg.offset[i] + io.sg.length[i]), to);
        to += io.sg.length[i];
      }
      return all;
    };
    if (op === BdevOp.WRITE) {
      const tag = random(2 ** 31);
      for (let i = 0; i < io.sg.count; i++) {
        const part = memory.u8.subarray(io.sg.offset[i], io.sg.offset[i] + io.sg.length[i]);
        for (let k = 0; k < part.length; k++) part[k] = (k * 7 + tag + i) & 0xff;
      }
    }
    const data = op === BdevOp.WRITE ? bytesOf() : undefined;
    commands++;
    await submit(io);
    counts[nameOf(io.status)] = (counts[nameOf(io.status)] ?? 0) + 1;
    const from = lba * blockSize;
    if (io.status !== BdevStatus.OK) return;
    if (op === BdevOp.WRITE) model.set(data, from);
    else if (op === BdevOp.WRITE_ZEROES || op === BdevOp.UNMAP) model.fill(0, from, from + bytes);
    else if (op === BdevOp.READ) {
      verified += bytes;
      if (Buffer.compare(bytesOf(), model.subarray(from, from + bytes)) !== 0) {
        wrong.push(`read of ${bytes} bytes at ${from}`);
      }
    }
  };
  const start = Date.now();
  if (options.learn) {
    // What is there from before.
    for (let lba = 0; lba < numBlocks; lba += 2048) {
      const io = new BdevIo({ ioDone() {} }, new SgList(1));
      io.op = BdevOp.READ;
      io.lba = lba;
      io.blocks = Math.min(2048, numBlocks - lba);
      io.sg.push(near, 0, io.blocks * blockSize);
      await submit(io);
      model.set(near.u8.subarray(0, io.blocks * blockSize), lba * blockSize);
    }
  }
  for (const depth of options.depths) {
    // Each runner has a part of the disk, and of each memory, to itself.
    const part = Math.floor(numBlocks / depth);
    const room = Math.floor(near.length / depth / 4096) * 4096;
    const most = Math.max(1, Math.min(part, Math.floor((room / 2 - 400000) / blockSize), options.maxBytes / blockSize));
    await Promise.all(
      Array.from({ length: depth }, async (_, i) => {
        for (let round = 0; round < Math.max(4, options.rounds / depth); round++) {
          const place = { memory: random(2) === 0 ? near : far, at: i * room };
          const size = [1, 8, 8, 8, 64, 256, most][random(7)] * (blockSize === 512 ? 1 : 1);
          const blocks = Math.max(1, Math.min(size, most));
          const lba = i * part + random(part - blocks + 1);
          const op = [BdevOp.WRITE, BdevOp.WRITE, BdevOp.READ, BdevOp.READ, BdevOp.WRITE_ZEROES][random(5)];
          await request(op, lba, blocks, place);
          if (op === BdevOp.WRITE) await request(BdevOp.READ, lba, blocks, place);
        }
      }),
    );
  }
  const flush = new BdevIo({ ioDone() {} });
  flush.op = BdevOp.FLUSH;
  await submit(flush);
  const zeroCopy = channel.zeroCopy;
  channel.memoryRemoved?.(near);
  channel.close();
  const stats = bdev.stats.snapshot();
  return {
    name: bdev.info.name,
    product: bdev.info.product,
    blockSize,
    numBlocks,
    counts,
    commands,
    verified,
    wrong,
    zeroCopy,
    bounced: stats.bouncedOps,
    requests: stats.read.count + stats.write.count,
    ms: Date.now() - start,
    sha256: createHash('sha256').update(model).digest('hex'),
  };
}

const loop = new EventLoop();
loop.attach();
const result = { disks: [], attached: [], told };
try {
  const bdevs = [];
  for (const [i, what] of options.attach.entries()) {
    const made =
      what.nvme !== undefined
        ? await disks.attachNvme({ name: `NVMe${i}`, traddr: what.nvme, mode: what.mode })
        : await disks.attachVirtio({ name: `VirtioScsi${i}`, trtype: 'pci', traddr: what.virtio, mode: what.mode });
    bdevs.push(...made);
  }
  result.attached = [...disks.describe('nvme'), ...disks.describe('virtio')];
  // On a slow machine resets at a fixed pace would leave no time for anything else.
  let seen = -1;
  const timer = options.reset
    ? setInterval(() => {
        if (now.ends === seen) return;
        seen = now.ends;
        now.resets++;
        for (const kind of ['nvme', 'virtio']) for (const name of disks.names(kind)) disks.reset(kind, name);
      }, options.reset)
    : undefined;
  for (const bdev of bdevs) result.disks.push(await exercise(bdev, loop));
  clearInterval(timer);
  result.after = [...disks.describe('nvme'), ...disks.describe('virtio')];
} catch (error) {
  result.error = error.stack;
}
now.step = 'closing';
now.lastEnd = Date.now();
if (options.reset) {
  // In the middle of another reset.
  for (const kind of ['nvme', 'virtio']) for (const name of disks.names(kind)) disks.reset(kind, name);
  await new Promise((resolve) => setTimeout(resolve, random(50)));
}
loop.close();
await disks.close();
result.told = told;
console.log(`RESULT ${JSON.stringify(result)}`);
