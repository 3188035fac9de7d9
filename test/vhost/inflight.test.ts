/** Requests in flight survive the death of the back end (row 17: what the region says is hostile). */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Memory } from '../../src/memory/memory.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { mapFile, memfd } from '../../src/sys/mapping.ts';
import { InflightQueue } from '../../src/vhost/inflight.ts';
import { FrontEnd, ID, inflightBytes, LINUX_FEATURES, pump, settle } from '../support/front-end.ts';
import { SharedGuest } from '../support/front-end-memory.ts';
import { read10, ScsiDriver, write10 } from '../support/front-end-scsi.ts';
import { assert, suite } from '../support/suite.ts';
import { withRig } from './rig.ts';

const test = suite('vhost inflight');
const TUR = [0, 0, 0, 0, 0, 0];
/** Bytes of a queue region of 128: header 16 and 128 * 16, to the next multiple of 64. */
const QUEUE_128 = 2112;

/** A region in plain memory, as a test looks at it. */
class Region {
  readonly memory = new Memory(new ArrayBuffer(1024));
  readonly view = new DataView(this.memory.u8.buffer);
  queue(): InflightQueue {
    return new InflightQueue(this.memory, 0, 8, 8);
  }
  get header(): number[] {
    return [8, 10, 12, 14].map((at) => this.view.getUint16(at, true));
  }
  entry(head: number): { inflight: number; next: number; counter: bigint } {
    const at = 16 + 16 * head;
    return {
      inflight: this.view.getUint8(at),
      next: this.view.getUint16(at + 6, true),
      counter: this.view.getBigUint64(at + 8, true),
    };
  }
  setHeader(version: number, descNum: number, lastBatchHead: number, usedIdx: number): void {
    [version, descNum, lastBatchHead, usedIdx].forEach((v, i) => {
      this.view.setUint16(8 + 2 * i, v, true);
    });
  }
  set(head: number, inflight: number, next: number, counter: bigint): void {
    const at = 16 + 16 * head;
    this.view.setUint8(at, inflight);
    this.view.setUint16(at + 6, next, true);
    this.view.setBigUint64(at + 8, counter, true);
  }
}

test('the region is written as the protocol says, step by step', () => {
  const region = new Region();
  const queue = region.queue();
  assert.equal(queue.recover(7), []);
  assert.equal(region.header, [1, 8, 0, 7], 'version 1, 8 descriptors, used_idx as the ring has it');
  queue.taken(3);
  queue.taken(5);
  assert.equal([region.entry(3).inflight, region.entry(3).counter], [1, 0n]);
  assert.equal([region.entry(5).inflight, region.entry(5).counter], [1, 1n]);
  queue.completing(5);
  queue.completing(3);
  assert.equal([region.entry(5).next, region.entry(3).next], [0, 5], 'the batch is a list');
  assert.equal(region.header, [1, 8, 3, 7], 'last_batch_head');
  assert.is(region.entry(3).inflight, 1, 'in flight until used.idx is written');
  queue.published(9);
  assert.equal([region.entry(3).inflight, region.entry(5).inflight], [0, 0]);
  assert.equal(region.header, [1, 8, 3, 9]);
});

test('recovery: in the order of the counters; a batch that was published is not done again', () => {
  const region = new Region();
  region.setHeader(1, 8, 4, 10);
  region.set(4, 1, 6, 20n);
  region.set(6, 1, 0, 19n);
  region.set(1, 1, 0, 0x1_0000_0002n);
  region.set(2, 1, 0, 0xffff_ffffn);
  region.set(7, 0, 0, 3n);
  const queue = region.queue();
  assert.equal(queue.recover(12), [2, 1], 'heads 4 and 6 were in the batch of two');
  assert.is(region.header[3], 12);
  queue.taken(0);
  assert.is(region.entry(0).counter, 0x1_0000_0003n, 'counting goes on');
  const again = new Region();
  again.memory.u8.set(region.memory.u8);
  assert.equal(again.queue().recover(12), [2, 1, 0], 'recovery can itself be interrupted');
});

test('row 17: hostile content is refused, or recovers heads of this ring only, in bounded time', () => {
  const region = new Region();
  region.setHeader(2, 8, 0, 0);
  assert.match(String(region.queue().recover(0)), /version 2/);
  region.setHeader(1, 9, 0, 0);
  assert.match(String(region.queue().recover(0)), /9 descriptors/);
  region.setHeader(1, 8, 0xffff, 65530);
  assert.equal(region.queue().recover(2), [], 'a list head outside the table');
  region.setHeader(1, 8, 3, 0);
  region.set(3, 1, 3, 0n);
  assert.equal(region.queue().recover(8), [], 'a list that is a loop');
  region.setHeader(1, 8, 3, 0);
  region.set(3, 1, 0xfff0, 0n);
  assert.equal(region.queue().recover(8), [], 'a link outside the table');
  region.setHeader(1, 8, 3, 0);
  region.set(3, 1, 0, 0n);
  assert.equal(region.queue().recover(9), [3], 'no batch is longer than the queue: nothing is settled');
  region.setHeader(1, 8, 0, 0);
  region.set(3, 0xff, 0, 5n);
  assert.equal(region.queue().recover(0), [], 'only 1 means in flight');
  region.set(6, 1, 0, 5n);
  assert.match(String(new InflightQueue(region.memory, 0, 8, 4).recover(0)), /head 6, queue size is 4/);
});

test(
  'GET_INFLIGHT_FD gives a region of the right shape; the session writes it',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot();
    const reply = frontEnd.inflight?.bytes as Buffer;
    assert.is(Number(reply.readBigUInt64LE(0)), 3 * QUEUE_128);
    assert.equal([reply.readBigUInt64LE(8), reply.readUInt16LE(16), reply.readUInt16LE(18)], [0n, 3, 128]);
    driver.ready(0, TUR);
    rig.disk.hold = true;
    const waiting = driver.submit(0, read10(0, 1), { inLength: 512 });
    pump(rig.loop, () => rig.disk.held.length === 1);
    const mapping = mapFile(frontEnd.inflight?.fd as never, { size: 3 * QUEUE_128 });
    const { u8 } = mapping.memoryAt(0, 3 * QUEUE_128);
    const inflight = (head: number) => u8[2 * QUEUE_128 + 16 + 16 * head];
    assert.is(inflight(waiting.head), 1);
    rig.disk.release();
    driver.wait(waiting);
    assert.is(inflight(waiting.head), 0);
    mapping.unmap();
  }),
);

test(
  'row 17: descriptions and descriptors that do not fit are refused',
  withRig((rig) => {
    const frontEnd = rig.connect();
    frontEnd.init();
    const file = memfd('region', 3 * QUEUE_128, { seal: false });
    const no = (size: number, offset: number, queues: number, queueSize: number, why: RegExp) => {
      assert.is(frontEnd.tell(ID.SET_INFLIGHT_FD, inflightBytes(size, offset, queues, queueSize), [file], true), 1n);
      assert.match(rig.session.lastError ?? '', why);
    };
    no(3 * QUEUE_128 - 1, 0, 3, 128, /region of 6335 bytes/);
    no(3 * QUEUE_128, 0, 4, 128, /region of 6336 bytes/);
    no(3 * QUEUE_128, 0, 0, 128, /0 queues/);
    no(3 * QUEUE_128, 0, 0xffff, 128, /65535 queues/);
    no(3 * QUEUE_128, 0, 3, 0xffff, /queues of 65535/);
    no(3 * QUEUE_128, 1, 3, 128, /not a multiple of 4096/);
    no(3 * QUEUE_128, 4096, 3, 128, /fewer than/);
    no(2 ** 40, 0, 3, 128, /region of 1099511627776 bytes/);
    no(2 ** 64 - 2048, 0, 3, 128, /region of/);
    no(3 * QUEUE_128, 2 ** 64 - 4096, 3, 128, /region at offset/);
    assert.is(frontEnd.tell(ID.SET_INFLIGHT_FD, inflightBytes(3 * QUEUE_128, 0, 3, 128), [file], true), 0n);
    assert.is(
      frontEnd.tell(ID.SET_INFLIGHT_FD, inflightBytes(QUEUE_128, 0, 1, 128), [file], true),
      0n,
      'a smaller one',
    );
    frontEnd.inflight = { fd: file, bytes: inflightBytes(QUEUE_128, 0, 1, 128) };
    // Queue 2 is not in that region: it cannot be tracked, and so does not run.
    frontEnd.makeRings([2], LINUX_FEATURES);
    frontEnd.start();
    assert.match(String(rig.vring(2)['broken']), /the inflight region has 1 queues/);
  }),
);

test(
  'row 17: a region that names heads which were never made available breaks the ring, and nothing else',
  withRig((rig) => {
    const frontEnd = rig.connect();
    frontEnd.init();
    frontEnd.getInflight();
    const region = frontEnd.inflight as NonNullable<typeof frontEnd.inflight>;
    const mapping = mapFile(region.fd, { size: 3 * QUEUE_128 });
    const memory = mapping.memoryAt(0, 3 * QUEUE_128);
    memory.u8.fill(1);
    for (let q = 0; q < 3; q++) {
      const words = (q * QUEUE_128) / 2;
      memory.u16.set([1, 128, 77, 0], words + 4);
    }
    mapping.unmap();
    frontEnd.makeRings([0, 1, 2], LINUX_FEATURES);
    frontEnd.start();
    settle(rig.loop);
    for (const i of [0, 2]) assert.is(rig.vring(i)['state'], 'broken');
    frontEnd.stop();
  }),
);

test(
  'the front end comes back while requests of its last session still run: they end first, then are done again',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot();
    driver.ready(0, TUR);
    rig.disk.executed.length = 0;
    rig.disk.hold = true;
    const waiting = driver.submit(0, write10(4, 1), { out: new Uint8Array(512).fill(4) });
    pump(rig.loop, () => rig.disk.held.length === 1);
    frontEnd.disconnect();
    pump(rig.loop, () => rig.session.ended !== null);
    frontEnd.reconnect();
    frontEnd.init();
    const { fd, bytes } = frontEnd.inflight as NonNullable<typeof frontEnd.inflight>;
    frontEnd.send(ID.SET_INFLIGHT_FD, bytes, 9, [fd]);
    settle(rig.loop, 100);
    assert.is(rig.disk.held.length, 1);
    assert.is(rig.server.sessions.size, 2);
    rig.disk.hold = false;
    rig.disk.release();
    assert.is(frontEnd.receive()?.id, ID.SET_INFLIGHT_FD);
    assert.is(rig.server.sessions.size, 1);
    const used = frontEnd.ring(2);
    frontEnd.start(LINUX_FEATURES, new Map([[2, frontEnd.guest.u16(used.used + 2)]]));
    assert.is(driver.wait(waiting).status, 0);
    assert.is(rig.disk.executed.length, 2, 'once for each session');
    assert.is(rig.vring(2)['recovered'], 1);
    assert.is(driver.run(0, read10(4, 1), { inLength: 512 }).data[9], 4);
  }),
);

test(
  'a predecessor that was cut off went on for a while: what it completed after the front end had looked is not done again',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot();
    driver.ready(0, TUR);
    rig.disk.hold = true;
    const cut = [1, 2, 3].map((lba) => driver.submit(0, write10(lba, 1), { out: new Uint8Array(512).fill(lba) }));
    pump(rig.loop, () => rig.disk.held.length === 3);
    const { used } = frontEnd.ring(2);
    const early = frontEnd.guest.u16(used + 2);
    rig.disk.hold = false;
    rig.disk.release();
    pump(rig.loop, () => frontEnd.guest.u16(used + 2) !== early);
    settle(rig.loop);
    frontEnd.disconnect();
    pump(rig.loop, () => rig.server.sessions.size === 0);
    frontEnd.reconnect();
    frontEnd.init();
    rig.disk.executed.length = 0;
    frontEnd.start(LINUX_FEATURES, new Map([[2, early]]));
    for (const request of cut) assert.is(driver.wait(request).status, 0);
    assert.is(rig.disk.executed.length, 0);
    assert.is(driver.run(0, read10(2, 1), { inLength: 512 }).data[0], 2);
    assert.is(rig.disk.executed.length, 1);
  }),
);

// A real crash: another process serves, and dies by SIGKILL.

async function serve(path: string, file: string, complete: number): Promise<ChildProcess> {
  const script = join(import.meta.dirname, 'crash-server.ts');
  const args = ['--import', 'tsx', script, path, file, String(1 << 20), String(complete)];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  await new Promise<void>((resolve, reject) => {
    child.stdout?.once('data', () => resolve());
    child.once('exit', (code) => reject(new Error(`the server ended with ${code}`)));
  });
  child.removeAllListeners('exit');
  return child;
}

async function kill(child: ChildProcess): Promise<void> {
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await gone;
}

test('kill -9 with requests in flight, again and again: each is done, none is done twice for the guest', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'vvu-crash-'));
  const [path, file] = [join(folder, 'vhost.0'), join(folder, 'disk')];
  writeFileSync(file, Buffer.alloc(1 << 20));
  const loop = new EventLoop();
  const guest = new SharedGuest();
  let child = await serve(path, file, 5);
  const frontEnd = new FrontEnd({ loop, path, guest });
  try {
    frontEnd.init();
    frontEnd.makeRings([0, 1, 2], LINUX_FEATURES);
    frontEnd.start();
    const driver = new ScsiDriver(frontEnd);
    driver.ready(0, TUR);
    const all = Array.from({ length: 20 }, (_, i) =>
      driver.submit(0, write10(i, 1), { out: new Uint8Array(512).fill(i + 1) }),
    );
    const done = () => {
      driver.collect();
      return all.filter((p) => p.answer !== null).length;
    };
    pump(loop, () => done() === 5, 'the first five');
    for (const complete of [4, 6, 100]) {
      await kill(child);
      const before = done();
      child = await serve(path, file, complete);
      frontEnd.disconnect();
      frontEnd.reconnect();
      frontEnd.init();
      const bases = new Map(frontEnd.rings.map((r) => [r.index, guest.u16(r.used + 2)]));
      frontEnd.start(LINUX_FEATURES, bases);
      pump(loop, () => done() === Math.min(20, before + complete), `${complete} more`);
    }
    assert.ok(all.every((p) => p.answer?.status === 0 && p.answer.response === 0));
    const disk = readFileSync(file);
    for (let i = 0; i < 20; i++) assert.is(disk[i * 512 + 511], i + 1);
    assert.is(driver.run(0, read10(3, 1), { inLength: 512 }).data[0], 4);
  } finally {
    frontEnd.close();
    guest.close();
    loop.close();
    await kill(child);
    rmSync(folder, { recursive: true, force: true });
  }
});

test.run();
