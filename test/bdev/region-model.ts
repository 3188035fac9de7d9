/**
 * What a disk must hold while random requests run: it is cut into regions, each with one request at a time, so its content is known, or
 * known to be open after a failed write.
 */
import { BdevOp } from '../../src/bdev/bdev.ts';
import { fc } from '../support/property.ts';
import { assert } from '../support/suite.ts';
import { type BufferRig, bytesOf, fillList, type Placement, pattern, type TestIo } from './disk-rig.ts';

export const REGIONS = 24;
export const REGION_BYTES = 0x4_0000;
const OPS = [BdevOp.READ, BdevOp.WRITE, BdevOp.FLUSH, BdevOp.UNMAP, BdevOp.WRITE_ZEROES, BdevOp.COMPARE];

export const shape = fc.record({
  region: fc.nat(REGIONS - 1),
  op: fc.constantFrom(...OPS),
  blocks: fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 64 })),
  placement: fc.constantFrom<Placement>('linear', 'pages', 'unreachable'),
  offset: fc.oneof(fc.constant(0), fc.constant(4096), fc.nat(5000)),
  gap: fc.oneof(fc.constant(0), fc.constant(4096), fc.nat(700)),
  cuts: fc.array(fc.oneof(fc.constant(4096), fc.integer({ min: 1, max: 9000 })), { maxLength: 6 }),
  seed: fc.nat(1e6),
  fua: fc.boolean(),
});
export type Shape = typeof shape extends fc.Arbitrary<infer T> ? T : never;

interface Running {
  readonly io: TestIo;
  readonly shape: Shape;
  readonly data: Uint8Array;
  checked: boolean;
}

export class RegionModel {
  /** A device that lies about what it has done: contents are not checked any more, everything else is. */
  lied = false;
  private readonly rig: BufferRig;
  private readonly blockSize: number;
  private readonly send: (io: TestIo) => void;
  private readonly running: Running[] = [];
  /** null when a failed write leaves it open. */
  private readonly held: (Uint8Array | null)[];
  private readonly busy = new Set<number>();

  constructor(rig: BufferRig, blockSize: number, send: (io: TestIo) => void) {
    this.rig = rig;
    this.blockSize = blockSize;
    this.send = send;
    this.held = Array.from({ length: REGIONS }, () => new Uint8Array(REGION_BYTES));
  }

  get ios(): TestIo[] {
    return this.running.map((r) => r.io);
  }

  submit(s: Shape): void {
    if (this.busy.has(s.region)) return;
    const bytes = s.blocks * this.blockSize;
    const lengths: number[] = [];
    let left = bytes;
    for (const cut of s.cuts) {
      const n = Math.min(cut, left);
      if (n > 0) lengths.push(n);
      left -= n;
    }
    if (left > 0) lengths.push(left);
    const memory = this.rig.guest(s.offset + bytes + lengths.length * s.gap, s.placement);
    const sg = this.rig.list(memory, lengths, s.offset, s.gap);
    const data = pattern(bytes, s.seed);
    const held = this.held[s.region];
    if (s.op === BdevOp.COMPARE && held != null && s.seed % 2 === 0) data.set(held.subarray(0, bytes));
    fillList(sg, 0, data);
    const lba = (s.region * REGION_BYTES) / this.blockSize;
    const io = this.rig.io(s.op, lba, s.op === BdevOp.FLUSH ? 0 : s.blocks, sg);
    io.fua = s.fua;
    this.running.push({ io, shape: s, data, checked: false });
    this.busy.add(s.region);
    this.send(io);
    this.check();
  }

  /** Look at what has ended. */
  check(): void {
    for (const r of this.running) {
      assert.ok(r.io.ends <= 1, 'ended once');
      if (r.io.ends === 0 || r.checked) continue;
      r.checked = true;
      this.busy.delete(r.shape.region);
      this.judge(r);
    }
  }

  private judge({ io, shape: s, data }: Running): void {
    const held = this.held[s.region];
    const bytes = data.length;
    switch (s.op) {
      case BdevOp.READ:
        if (io.result === 'OK' && held != null && !this.lied) {
          assert.is(Buffer.compare(bytesOf(io.sg, 0, bytes), held.subarray(0, bytes)), 0, 'read what is there');
        }
        return;
      case BdevOp.COMPARE: {
        if (held == null || this.lied) return;
        const same = Buffer.compare(data, held.subarray(0, bytes)) === 0;
        if (io.result === 'OK') assert.ok(same, 'equal');
        if (io.result !== 'MISCOMPARE') return;
        const place = data.findIndex((b, i) => b !== held[i]);
        assert.ok(same || io.miscompareOffset === place, `differs at ${place}, told ${io.miscompareOffset}`);
        return;
      }
      case BdevOp.WRITE:
      case BdevOp.UNMAP:
      case BdevOp.WRITE_ZEROES:
        if (io.result !== 'OK' || this.lied) this.held[s.region] = null;
        else held?.set(s.op === BdevOp.WRITE ? data : new Uint8Array(bytes));
    }
  }

  /** After everything was to have ended. @param disk what the device holds; undefined when it has gone */
  finish(disk: Uint8Array | undefined): void {
    this.check();
    assert.ok(
      this.running.every((r) => r.io.ends === 1),
      'every request has ended',
    );
    this.held.forEach((held, region) => {
      if (held === null || disk === undefined || this.lied) return;
      const real = disk.subarray(region * REGION_BYTES, region * REGION_BYTES + held.length);
      assert.is(Buffer.compare(real, held), 0, `region ${region} holds what was written`);
    });
  }
}
