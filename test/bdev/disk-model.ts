/**
 * A disk against a plain array: the same random requests to both, and after each the same contents. Segments are cut and placed
 * at random, so that every copy, split and bounce is passed.
 */

import { type BdevChannel, BdevIo, BdevOp, BdevStatus } from '../../src/bdev/bdev.ts';
import { Memory } from '../../src/memory/memory.ts';
import { SgList } from '../../src/memory/sg-list.ts';
import { fc } from '../support/property.ts';
import { assert } from '../support/suite.ts';

/** Counts what ended, and fails on a request that ends twice. */
export class Owner {
  readonly done = new Set<BdevIo>();

  ioDone(io: BdevIo): void {
    assert.not(this.done.has(io), 'a request ended twice');
    this.done.add(io);
  }
}

export interface Step {
  op: number;
  lba: number;
  blocks: number;
  fua: boolean;
  /** Seeds contents; odd seeds for COMPARE mean "change one byte". */
  seed: number;
  /** Where segments are cut, in 1/1000 of the transfer. */
  cuts: number[];
  /** Bytes before each segment, and before the transfer in the list. */
  gap: number;
  skip: number;
}

export function steps(numBlocks: number): fc.Arbitrary<Step[]> {
  const step = fc.record({
    op: fc.constantFrom<number>(0, 0, 0, 1, 1, 1, 1, 2, 3, 4, 5, 5),
    lba: fc.nat(numBlocks - 1),
    blocks: fc.oneof(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 1, max: numBlocks })),
    fua: fc.boolean(),
    seed: fc.nat(0xffff),
    cuts: fc.array(fc.nat(1000), { maxLength: 6 }),
    gap: fc.constantFrom(0, 1, 3, 4, 8, 512, 4096),
    skip: fc.constantFrom(0, 0, 1, 5, 512),
  });
  return fc.array(step, { minLength: 1, maxLength: 30 });
}

export function fill(u8: Uint8Array, seed: number): void {
  let x = seed * 2654435761 + 1;
  for (let i = 0; i < u8.length; i++) {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0;
    u8[i] = x >>> 16;
  }
}

/** Cut `bytes` into segments over `memory`, with `gap` bytes between them and `skip` bytes of the list before the transfer. */
export function scatter(memory: Memory, bytes: number, cuts: number[], gap: number, skip: number): SgList {
  const sg = new SgList(16, 64);
  const edges = [...new Set([0, ...cuts.map((c) => Math.floor((bytes * c) / 1000)), bytes])].sort((a, b) => a - b);
  let at = gap;
  let first = skip;
  for (let i = 1; i < edges.length; i++) {
    const n = edges[i] - edges[i - 1] + first;
    first = 0;
    sg.push(memory, at, n);
    at += n + gap;
  }
  if (sg.count === 0) sg.push(memory, 0, skip);
  return sg;
}

/** Runs requests one at a time and compares with the model. */
export class DiskModel {
  readonly channel: BdevChannel;
  readonly contents: Uint8Array;
  private readonly memory: Memory;
  private readonly pump: () => void;

  /**
   * @param memory at least the disk's size and a little more; guest memory stands here
   * @param pump one pass of whatever makes the channel go on
   */
  constructor(channel: BdevChannel, memory: Memory, pump: () => void) {
    this.channel = channel;
    this.memory = memory;
    this.pump = pump;
    this.contents = new Uint8Array(channel.info.numBlocks * channel.info.blockSize);
  }

  /** Submit and wait. */
  run(io: BdevIo): BdevStatus {
    const owner = io.owner as Owner;
    owner.done.delete(io);
    this.channel.submit(io);
    const end = Date.now() + 10_000;
    while (!owner.done.has(io)) {
      this.pump();
      if (Date.now() > end) throw new Error(`request ${io.op} ${io.lba}+${io.blocks} never ended`);
    }
    return io.status;
  }

  step(s: Step): void {
    const { blockSize, numBlocks, unmapZeroes } = this.channel.info;
    const io = new BdevIo(new Owner());
    io.op = s.op as BdevOp;
    io.lba = s.lba;
    io.blocks = s.blocks;
    io.fua = s.fua;
    const at = s.lba * blockSize;
    const bytes = s.op === BdevOp.FLUSH ? 0 : s.blocks * blockSize;
    io.sg = scatter(this.memory, bytes, s.cuts, s.gap, s.skip);
    io.sgOffset = s.skip;
    const data = new Memory(new ArrayBuffer(Math.max(8, bytes)));
    const plain = data.u8.subarray(0, bytes);
    const inRange = s.lba + s.blocks <= numBlocks;
    if (s.op === BdevOp.WRITE) fill(plain, s.seed);
    let differs = -1;
    if (s.op === BdevOp.COMPARE && inRange) {
      plain.set(this.contents.subarray(at, at + bytes));
      if ((s.seed & 1) === 1 && bytes > 0) {
        differs = s.seed % bytes;
        plain[differs] ^= 0x40;
      }
    }
    this.memory.u8.fill(0xee);
    if (s.op === BdevOp.WRITE || s.op === BdevOp.COMPARE) io.sg.scatter(s.skip, data, 0, bytes);

    const status = this.run(io);
    if (!inRange) {
      assert.is(status, BdevStatus.OUT_OF_RANGE);
      return;
    }
    assert.is(status, differs >= 0 ? BdevStatus.MISCOMPARE : BdevStatus.OK, `op ${s.op} ${s.lba}+${s.blocks}`);
    if (differs >= 0) assert.is(io.miscompareOffset, differs);
    if (s.op === BdevOp.READ) {
      assert.is(io.sg.gather(s.skip, data, 0, bytes), bytes);
      assert.ok(
        Buffer.compare(plain, this.contents.subarray(at, at + bytes)) === 0,
        `read ${s.lba}+${s.blocks} differs`,
      );
    } else if (s.op === BdevOp.WRITE) {
      this.contents.set(plain, at);
    } else if (s.op === BdevOp.WRITE_ZEROES || (s.op === BdevOp.UNMAP && unmapZeroes)) {
      this.contents.fill(0, at, at + bytes);
    }
  }

  /** Read all of it in one piece and compare. */
  verify(): void {
    this.step({
      op: BdevOp.READ,
      lba: 0,
      blocks: this.channel.info.numBlocks,
      fua: false,
      seed: 0,
      cuts: [],
      gap: 0,
      skip: 0,
    });
  }
}
