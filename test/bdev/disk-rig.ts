/** What tests of devices' channels share: a clock, physical memory, requests and buffers of every shape. */
import { BdevIo, type BdevOp, BdevStatus } from '../../src/bdev/bdev.ts';
import { Memory } from '../../src/memory/memory.ts';
import { SgList } from '../../src/memory/sg-list.ts';
import { FakeDma } from '../support/fake-dma.ts';
import { FakeLoop } from '../support/fake-loop.ts';

export const NAMES = new Map(Object.entries(BdevStatus).map(([name, value]) => [value as number, name]));

/** A request that notes its end. */
export class TestIo extends BdevIo {
  ends = 0;
  constructor() {
    super({ ioDone: () => this.ends++ });
  }
  get result(): string {
    return this.ends === 0 ? 'pending' : this.ends > 1 ? `ended ${this.ends} times` : (NAMES.get(this.status) ?? '?');
  }
}

/** Where a buffer lies: one physical piece, single pages, or nowhere that a device can reach. */
export type Placement = 'linear' | 'pages' | 'unreachable';

export class BufferRig {
  readonly loop = new FakeLoop();
  readonly dma: FakeDma;
  private readonly guests: Memory[] = [];

  /** @param longest longest physical piece of the driver's own memory, bytes */
  constructor(longest?: number) {
    this.dma = new FakeDma(longest);
  }

  /** Memory of a guest. */
  guest(bytes: number, placement: Placement): Memory {
    const memory = new Memory(new SharedArrayBuffer(Math.ceil(bytes / 4096) * 4096));
    if (placement !== 'unreachable') this.dma.register(memory, placement === 'linear');
    this.guests.push(memory);
    return memory;
  }

  /** Segments of these lengths, `gap` bytes apart, from `offset` on. */
  list(memory: Memory, lengths: readonly number[], offset = 0, gap = 0): SgList {
    const sg = new SgList(lengths.length + 1);
    let at = offset;
    for (const length of lengths) {
      sg.push(memory, at, length);
      at += length + gap;
    }
    return sg;
  }

  io(op: BdevOp, lba: number, blocks: number, sg = new SgList(1), sgOffset = 0): TestIo {
    const io = new TestIo();
    io.op = op;
    io.lba = lba;
    io.blocks = blocks;
    io.sg = sg;
    io.sgOffset = sgOffset;
    return io;
  }
}

/** Bytes that tell where they belong. */
export function pattern(bytes: number, seed: number): Uint8Array {
  const data = new Uint8Array(bytes);
  let x = (seed * 2654435761) >>> 0;
  for (let i = 0; i < bytes; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    data[i] = x >>> 24;
  }
  return data;
}

/** All bytes of a list, from `from` on. */
export function bytesOf(sg: SgList, from: number, bytes: number): Uint8Array {
  const copy = new Memory(new ArrayBuffer(Math.ceil(bytes / 8) * 8));
  sg.gather(from, copy, 0, bytes);
  return copy.u8.slice(0, bytes);
}

export function fillList(sg: SgList, from: number, data: Uint8Array): void {
  const copy = new Memory(new ArrayBuffer(Math.ceil(data.length / 8) * 8));
  copy.u8.set(data);
  sg.scatter(from, copy, 0, data.length);
}
