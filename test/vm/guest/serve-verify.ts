/**
 * Runs in the appliance, beside the target: a guest of the target's that writes, reads and verifies its disks through a vhost-user-scsi
 * controller, as a compute VM would. Prints what happened as one JSON line.
 *
 * node serve-verify.js '{"socket": "/run/vhost.0", "targets": [0, 1], "depths": [1, 64], "mebibytes": 16}'
 */
import { createHash } from 'node:crypto';
import { EventLoop } from '../../../src/sys/event-loop.ts';
import { IoList } from '../../../src/virtio/io-list.ts';
import { FrontEnd, LINUX_FEATURES } from '../../support/front-end.ts';
import { SharedGuest } from '../../support/front-end-memory.ts';
import { ScsiDriver } from '../../support/front-end-scsi.ts';

export interface ServeVerify {
  socket: string;
  targets: number[];
  /** Requests at once. */
  depths: number[];
  /** Data of each depth, written and read back, a target. */
  mebibytes?: number;
  /** Instead: go on for so long, at each depth. */
  seconds?: number;
  maxBytes?: number;
  /** The disks are not empty: begin with reading all of them. */
  learn?: boolean;
  seed?: number;
  /** The guest claims to have so much memory more, of which it uses nothing: a sparse file. */
  gibibytesMore?: number;
}

export interface ServeVerified {
  targets: {
    target: number;
    product: string;
    blockSize: number;
    blocks: number;
    /** Requests by how they ended: GOOD, or what was said. */
    ends: Record<string, number>;
    /** Reads that gave something else. */
    wrong: string[];
    /** Of all that must be on the disk, its untouched parts zero. */
    sha256: string;
  }[];
  /** Bytes read and compared. */
  verified: number;
  /** Requests that never came back. */
  lost: number;
  ms: number;
}

const MIB = 2 ** 20;
const BASE = 0x1_0000_0000;
/** Memory for the data of all requests, and what one needs beyond its data for odd places. */
const DATA = 48 * MIB;
const ODD = 2 ** 17;
const HEADER = 51;
const RESPONSE = 108;
const READ_16 = 0x88;
const WRITE_16 = 0x8a;
const SYNCHRONIZE_CACHE = 0x35;
/** Without an answer for so long, requests are taken for lost. Milliseconds. */
const PATIENCE = 90_000;

const options: Required<ServeVerify> = {
  mebibytes: 16,
  seconds: 0,
  maxBytes: MIB,
  learn: false,
  seed: 1,
  gibibytesMore: 0,
  ...(JSON.parse(process.argv[2] as string) as ServeVerify),
};

let seed = options.seed;
function random(n: number): number {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return Math.floor((seed / 2 ** 32) * n);
}

const most = Math.max(...options.depths);
const loop = new EventLoop();
const memory = new SharedGuest([
  { gpa: 0, size: 0xa_0000 },
  ...(options.gibibytesMore === 0 ? [] : [{ gpa: 2 ** 44, size: options.gibibytesMore * 2 ** 30 }]),
  { gpa: BASE, size: DATA + MIB },
]);
const frontEnd = new FrontEnd({ loop, guest: memory, path: options.socket, queues: 3, queueSize: 1024 });
frontEnd.init();
frontEnd.makeRings([0, 1, 2], LINUX_FEATURES);
frontEnd.start();
const scsi = new ScsiDriver(frontEnd);
const ring = frontEnd.ring(2);
loop.watch(ring.call.fd.number, () => ring.call.drain());
let hungUp = false;
const line = loop.watch(frontEnd.socket.number, () => {
  if (!frontEnd.hungUp) return;
  hungUp = true;
  line.close();
});

interface Slot {
  /** Guest addresses of header, response and data. */
  readonly header: number;
  readonly response: number;
  data: number;
  readonly out: IoList;
  readonly into: IoList;
  /** Called when its request ends; null: it is free. */
  done: ((end: string) => void) | null;
}

const data = memory.alloc(DATA, 4096);
const slots: Slot[] = Array.from({ length: most }, () => ({
  header: memory.alloc(64, 64, 0),
  response: memory.alloc(128, 64, 0),
  data,
  out: new IoList(32),
  into: new IoList(32),
  done: null,
}));
const byHead = new Map<number, Slot>();
let lastEnd = performance.now();
let lost = 0;
let verified = 0;

function submit(slot: Slot, target: number, cdb: Uint8Array, data: IoList | null, write: boolean): void {
  const header = new Uint8Array(HEADER);
  header.set([1, target, 0, 0]);
  header[8] = slots.indexOf(slot) + 1;
  header.set(cdb, 19);
  memory.write(slot.header, header);
  slot.out.reset();
  slot.into.reset();
  slot.out.pushAddress(slot.header, HEADER);
  slot.into.pushAddress(slot.response, RESPONSE);
  for (let i = 0; i < (data?.count ?? 0); i++) {
    const list = data as IoList;
    (write ? slot.out : slot.into).push(list.lo[i] as number, list.hi[i] as number, list.length[i] as number);
  }
  const head = ring.driver.add(slot.out, slot.into, false);
  if (head < 0) throw new Error('the ring is full');
  byHead.set(head, slot);
}

/** Take what has ended, or wait for it. @returns false when nothing comes any more */
function turn(): boolean {
  if (ring.driver.publish()) ring.kick.signal();
  let some = false;
  for (let head = ring.driver.poll(); head >= 0; head = ring.driver.poll()) {
    const slot = byHead.get(head) as Slot;
    byHead.delete(head);
    some = true;
    const r = Buffer.from(memory.read(slot.response, RESPONSE));
    const { done } = slot;
    slot.done = null;
    done?.(describe(r));
  }
  if (ring.driver.broken !== null) throw new Error(ring.driver.broken);
  if (some) {
    lastEnd = performance.now();
    return true;
  }
  if (hungUp || performance.now() - lastEnd > PATIENCE) {
    lost = byHead.size;
    return false;
  }
  loop.turn(ring.driver.arm() ? 0 : 50);
  ring.driver.suppress();
  return true;
}

function describe(r: Buffer): string {
  const [response, status] = [r[11] as number, r[10] as number];
  if (response !== 0) return `response ${response}`;
  if (status === 0) return r.readUInt32LE(4) === 0 ? 'GOOD' : `residual ${r.readUInt32LE(4)}`;
  if (status !== 2) return `status ${status}`;
  return `sense ${[r[14] as number, r[24] as number, r[25] as number].map((b) => b.toString(16)).join('/')}`;
}

function cdb16(opcode: number, lba: number, blocks: number): Uint8Array {
  const cdb = new Uint8Array(16);
  const v = new DataView(cdb.buffer);
  cdb[0] = opcode;
  v.setBigUint64(2, BigInt(lba));
  v.setUint32(10, blocks);
  return cdb;
}

/** Segments of odd lengths at odd places of the slot's memory, in order. */
function scattered(slot: Slot, bytes: number): IoList {
  const list = new IoList(16);
  let at = slot.data + ([0, 0, 512, 4096, 1, 1234][random(6)] as number);
  for (let left = bytes; left > 0; ) {
    const cut = [left, left, 4096, 8192, 512, 1000][random(6)] as number;
    const n = list.count === 11 ? left : Math.min(left, cut);
    list.pushAddress(at, n);
    at += n + ([0, 0, 4096, 100][random(4)] as number);
    left -= n;
  }
  return list;
}

function copy(list: IoList, bytes: Uint8Array, toMemory: boolean): void {
  let done = 0;
  for (let i = 0; i < list.count; i++) {
    const { memory: m, offset } = memory.part((list.hi[i] as number) * 2 ** 32 + (list.lo[i] as number));
    const n = list.length[i] as number;
    if (toMemory) m.u8.set(bytes.subarray(done, done + n), offset);
    else bytes.set(m.u8.subarray(offset, offset + n), done);
    done += n;
  }
}

class Disk {
  readonly target: number;
  readonly product: string;
  readonly blockSize: number;
  readonly blocks: number;
  readonly ends: Record<string, number> = {};
  readonly wrong: string[] = [];
  gone = false;
  private readonly model: Uint8Array;

  constructor(target: number) {
    this.target = target;
    const inquiry = scsi.ready(target, [0x12, 0, 0, 0, 96, 0], { inLength: 96 });
    this.product = Buffer.from(inquiry.data.subarray(16, 32)).toString().trim();
    const capacity = scsi.ready(target, [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], { inLength: 32 });
    const v = new DataView(capacity.data.buffer, capacity.data.byteOffset);
    this.blocks = Number(v.getBigUint64(0)) + 1;
    this.blockSize = v.getUint32(8);
    this.model = new Uint8Array(this.blocks * this.blockSize);
  }

  private ended(end: string): boolean {
    this.ends[end] = (this.ends[end] ?? 0) + 1;
    if (end.startsWith('response 3') || end.startsWith('sense 5/25')) this.gone = true;
    return end === 'GOOD';
  }

  /** So many requests at once, each with a part of the disk to itself. */
  run(depth: number): void {
    const part = Math.floor(this.blocks / depth);
    const room = Math.floor(DATA / depth / 4096) * 4096;
    const largest = Math.floor(Math.min(part, Math.min(options.maxBytes, room - ODD) / this.blockSize));
    const until = performance.now() + options.seconds * 1000;
    let left = options.mebibytes * MIB;
    lastEnd = performance.now();
    const more = () => !this.gone && !hungUp && (options.seconds > 0 ? performance.now() < until : left > 0);
    const begin = (slot: Slot, first: number) => {
      if (!more()) return;
      const size = [1, 4096, 4096, 4096, 32768, 131072, options.maxBytes][random(7)] as number;
      const blocks = Math.max(1, Math.min(Math.floor(size / this.blockSize), largest));
      const lba = first + random(part - blocks + 1);
      const bytes = blocks * this.blockSize;
      left -= bytes;
      if (random(4) === 0) this.read(slot, lba, blocks, () => begin(slot, first));
      else this.write(slot, lba, blocks, () => this.read(slot, lba, blocks, () => begin(slot, first)));
    };
    for (let i = 0; i < depth; i++) {
      const slot = slots[i] as Slot;
      slot.data = data + i * room;
      begin(slot, i * part);
    }
    while (byHead.size > 0 && turn());
  }

  private write(slot: Slot, lba: number, blocks: number, then: () => void): void {
    const data = new Uint8Array(blocks * this.blockSize);
    const words = new Uint32Array(data.buffer);
    const tag = random(2 ** 31);
    for (let i = 0; i < words.length; i++) words[i] = tag + i;
    const list = scattered(slot, data.length);
    copy(list, data, true);
    slot.done = (end) => {
      if (this.ended(end)) this.model.set(data, lba * this.blockSize);
      // What a failed write left is not known: it is read as it is.
      else if (!this.gone) this.learn(slot, lba, blocks, then);
      if (end === 'GOOD' || this.gone) then();
    };
    submit(slot, this.target, cdb16(WRITE_16, lba, blocks), list, true);
  }

  /** What is there from before. */
  learnAll(): void {
    (slots[0] as Slot).data = data;
    const step = MIB / this.blockSize;
    for (let lba = 0; lba < this.blocks && !this.gone && !hungUp; lba += step) {
      this.learn(slots[0] as Slot, lba, Math.min(step, this.blocks - lba), () => {});
      while (byHead.size > 0 && turn());
    }
  }

  /** @param again times more, when that fails */
  private learn(slot: Slot, lba: number, blocks: number, then: () => void, again = 2): void {
    const list = scattered(slot, blocks * this.blockSize);
    slot.done = (end) => {
      const at = lba * this.blockSize;
      if (this.ended(end)) copy(list, this.model.subarray(at, at + blocks * this.blockSize), false);
      else if (!this.gone && again > 0) {
        this.learn(slot, lba, blocks, then, again - 1);
        return;
      }
      then();
    };
    submit(slot, this.target, cdb16(READ_16, lba, blocks), list, false);
  }

  private read(slot: Slot, lba: number, blocks: number, then: () => void): void {
    if (this.gone) {
      then();
      return;
    }
    const bytes = blocks * this.blockSize;
    const list = scattered(slot, bytes);
    copy(list, new Uint8Array(bytes).fill(0xee), true);
    slot.done = (end) => {
      if (this.ended(end)) {
        const got = new Uint8Array(bytes);
        copy(list, got, false);
        verified += bytes;
        const at = lba * this.blockSize;
        if (Buffer.compare(got, this.model.subarray(at, at + bytes)) !== 0 && this.wrong.length < 10) {
          this.wrong.push(`${bytes} bytes at ${at} in ${list.count} segments`);
        }
      }
      then();
    };
    submit(slot, this.target, cdb16(READ_16, lba, blocks), list, false);
  }

  flush(): void {
    if (this.gone || hungUp) return;
    const slot = slots[0] as Slot;
    slot.done = (end) => this.ended(end);
    submit(slot, this.target, new Uint8Array([SYNCHRONIZE_CACHE, 0, 0, 0, 0, 0, 0, 0, 0, 0]), null, false);
    while (byHead.size > 0 && turn());
  }

  get sha256(): string {
    return createHash('sha256').update(this.model).digest('hex');
  }
}

const start = performance.now();
const disks = options.targets.map((target) => new Disk(target));
if (options.learn) for (const disk of disks) disk.learnAll();
for (const depth of options.depths) for (const disk of disks) disk.run(depth);
for (const disk of disks) disk.flush();
const result: ServeVerified = {
  targets: disks.map(({ target, product, blockSize, blocks, ends, wrong, sha256 }) => {
    return { target, product, blockSize, blocks, ends, wrong, sha256 };
  }),
  verified,
  lost,
  ms: Math.round(performance.now() - start),
};
frontEnd.close();
memory.close();
loop.close();
console.log(`RESULT ${JSON.stringify(result)}`);
