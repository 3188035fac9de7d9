/** An NVMe disk on a controller in plain memory. */
import type { BdevShare } from '../../src/bdev/bdev.ts';
import { type NvmeBdevShare, type NvmeChannel, openNvmeChannel } from '../../src/bdev/nvme-channel.ts';
import { NvmeController, type NvmeControllerOptions } from '../../src/nvme/controller.ts';
import { FakeNvme, type FakeOptions } from '../nvme/fake-controller.ts';
import { assert } from '../support/suite.ts';
import { BufferRig, type TestIo } from './disk-rig.ts';

export class NvmeRig extends BufferRig {
  readonly fake: FakeNvme;
  readonly controller: NvmeController;
  readonly lost: string[] = [];
  readonly channels: NvmeChannel[] = [];

  constructor(options: FakeOptions = {}, own: NvmeControllerOptions = {}, longest?: number) {
    super(longest);
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
