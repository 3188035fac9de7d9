/** An NVMe disk on a controller in plain memory, with requests and buffers of every shape. */
import { BdevIo, type BdevOp, type BdevShare, BdevStatus } from '../../src/bdev/bdev.ts';
import { type NvmeBdevShare, type NvmeChannel, openNvmeChannel } from '../../src/bdev/nvme-channel.ts';
import { Memory } from '../../src/memory/memory.ts';
import { SgList } from '../../src/memory/sg-list.ts';
import { NvmeController, type NvmeControllerOptions } from '../../src/nvme/controller.ts';
import { FakeNvme, type FakeOptions } from '../nvme/fake-controller.ts';
import { FakeDma } from '../support/fake-dma.ts';
import { FakeLoop } from '../support/fake-loop.ts';
import { assert } from '../support/suite.ts';

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

export class NvmeRig {
  readonly loop = new FakeLoop();
  readonly dma = new FakeDma();
  readonly fake: FakeNvme;
  readonly controller: NvmeController;
  readonly lost: string[] = [];
  readonly channels: NvmeChannel[] = [];
  private readonly guests: Memory[] = [];

  constructor(options: FakeOptions = {}, own: NvmeControllerOptions = {}) {
    this.fake = new FakeNvme(this.dma, options);
    this.controller = new NvmeController(this.fake, this.loop, { lost: (_, why) => this.lost.push(why) }, own);
    let result: Error | null | undefined;
    this.controller.start((error) => {
      result = error;
    });
    this.loop.until(
      () => result !== undefined,
      10_000,
      () => this.fake.step(),
    );
    if (result !== null) throw result ?? new Error('did not start');
  }

  share(nsid = 1, data: Partial<NvmeBdevShare> = {}): BdevShare {
    const ns = this.controller.namespaces.find((n) => n.nsid === nsid);
    if (ns === undefined) throw new Error(`namespace ${nsid} is not there`);
    const info = {
      name: `NVMe1n${nsid}`,
      product: 'NVMe disk',
      uuid: ns.uuid,
      blockSize: ns.blockSize,
      physicalBlockSize: ns.physicalBlockSize,
      numBlocks: ns.numBlocks,
      writeCache: true,
      readOnly: ns.readOnly,
      unmap: true,
      unmapZeroes: true,
      nonRotational: true,
    };
    return {
      kind: 'nvme',
      info,
      data: { controller: this.controller.share(), nsid, unmapByZeroes: false, dmaTable: null, ...data },
    };
  }

  /** @param reactor channels of different reactors have queues of their own */
  open(nsid = 1, data: Partial<NvmeBdevShare> = {}, reactor = 0): NvmeChannel {
    const share = this.share(nsid, data);
    const { controller } = share.data as NvmeBdevShare;
    const mine = { ...controller, key: `${controller.key}/${reactor}` };
    const channel = openNvmeChannel(
      { ...share, data: { ...(share.data as NvmeBdevShare), controller: mine } },
      this.loop,
    );
    this.channels.push(channel);
    return channel;
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

  /** Submit and let time pass until all have ended. @returns how they ended */
  run(channel: NvmeChannel, ...ios: TestIo[]): string[] {
    for (const io of ios) channel.submit(io);
    this.settle(ios);
    return ios.map((io) => io.result);
  }

  settle(ios: readonly TestIo[], ms = 200_000): void {
    this.loop.until(
      () => ios.every((io) => io.ends > 0),
      ms,
      () => this.fake.step(),
    );
  }

  time(ms: number): void {
    this.loop.until(
      () => false,
      ms,
      () => this.fake.step(),
    );
  }

  /** Everything closes in order, and nothing is left. */
  stop(): void {
    for (const channel of this.channels) {
      const { pair, freeBuffers, bounce } = channel.queue;
      assert.is(channel.inFlight, 0, 'nothing is in flight');
      assert.is(pair.inFlight, 0, 'no command is out');
      assert.is(pair.freeSlots, pair.depth, 'every command slot is free');
      assert.is(freeBuffers * 0x2_0000, bounce.length, 'every bounce buffer is free');
      channel.close();
    }
    let off = false;
    this.controller.shutdown(() => {
      off = true;
    });
    this.loop.until(
      () => off,
      20_000,
      () => this.fake.step(),
    );
    assert.ok(off, 'shut down');
    assert.is(this.dma.allocated, 0, 'all DMA memory is given back');
    assert.equal(this.dma.violations, []);
    assert.ok(this.loop.idle, 'no timer, poller or watch is left');
    assert.not(this.fake.master);
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
