/** Disks behind a virtio-scsi adapter in plain memory. Control planes are asynchronous here, so time passes in `await`s. */
import type { Bdev } from '../../src/bdev/bdev.ts';
import { type AttachVirtio, VirtioDisks } from '../../src/bdev/virtio-disks.ts';
import type { VirtioScsiBdev } from '../../src/bdev/virtio-scsi-bdev.ts';
import {
  openVirtioScsiChannel,
  type VirtioScsiChannel,
  type VirtioScsiShare,
} from '../../src/bdev/virtio-scsi-channel.ts';
import { assert } from '../support/suite.ts';
import { BufferRig, type TestIo } from './disk-rig.ts';
import { type FakeAdapterOptions, FakeVirtioScsi } from './fake-virtio-scsi.ts';

export class VirtioRig extends BufferRig {
  readonly fake: FakeVirtioScsi;
  readonly disks: VirtioDisks;
  readonly told: string[] = [];
  readonly channels: VirtioScsiChannel[] = [];
  bdevs: VirtioScsiBdev[] = [];

  constructor(options: FakeAdapterOptions = {}, longest?: number) {
    super(longest);
    this.fake = new FakeVirtioScsi(this.dma, options);
    const note = (what: string) => (bdev: Bdev) => this.told.push(`${what} ${bdev.info.name} ${bdev.info.numBlocks}`);
    this.disks = new VirtioDisks(null, this.loop, {
      added: note('added'),
      removed: note('removed'),
      resized: note('resized'),
    });
  }

  /** An adapter with these disks, attached as V. */
  static async with(
    prepare: (fake: FakeVirtioScsi) => void,
    options: FakeAdapterOptions = {},
    own: Partial<AttachVirtio> = {},
    longest?: number,
  ) {
    const rig = new VirtioRig(options, longest);
    prepare(rig.fake);
    await rig.attach(own);
    return rig;
  }

  async attach(own: Partial<AttachVirtio> = {}): Promise<void> {
    this.bdevs = await this.await(this.disks.attachTransport('V', this.fake, own));
  }

  /** Let time pass until the promise is settled. */
  async await<T>(promise: Promise<T>, ms = 100_000): Promise<T> {
    let settled = false;
    const done = () => {
      settled = true;
    };
    promise.then(done, done);
    await this.until(() => settled, ms);
    assert.ok(settled, 'it came to an end');
    return promise;
  }

  /** Milliseconds pass, one at a time, with the device at work and promises going on. */
  async until(done: () => boolean, ms = 100_000): Promise<boolean> {
    for (let i = 0; i < ms; i++) {
      this.fake.step();
      this.loop.pass();
      await new Promise((resolve) => setImmediate(resolve));
      if (done()) return true;
      this.loop.now += 1e6;
    }
    return done();
  }

  time(ms: number): Promise<boolean> {
    return this.until(() => false, ms);
  }

  /** @param reactor channels of different reactors have queues of their own */
  open(disk = 0, reactor = 0): VirtioScsiChannel {
    const share = (this.bdevs[disk] as VirtioScsiBdev).share();
    const data = share.data as VirtioScsiShare;
    const adapter = { ...data.adapter, key: `${data.adapter.key}/${reactor}` };
    const channel = openVirtioScsiChannel({ ...share, data: { ...data, adapter } }, this.loop);
    this.channels.push(channel);
    return channel;
  }

  async run(channel: VirtioScsiChannel, ...ios: TestIo[]): Promise<string[]> {
    for (const io of ios) channel.submit(io);
    await this.settle(ios);
    return ios.map((io) => io.result);
  }

  async settle(ios: readonly TestIo[]): Promise<void> {
    await this.until(() => ios.every((io) => io.ends > 0), 200_000);
  }

  async stop(): Promise<void> {
    for (const channel of this.channels) {
      const { pair, freeBuffers, bounce } = channel.queue;
      assert.is(channel.inFlight, 0, 'nothing is in flight');
      assert.is(pair.inFlight, 0, 'no command is out');
      assert.is(pair.freeSlots, pair.depth, 'every slot is free');
      assert.is(freeBuffers * 0x2_0000, bounce.length, 'every bounce buffer is free');
      channel.close();
    }
    await this.await(this.disks.close());
    assert.is(this.dma.allocated, 0, 'all DMA memory is given back');
    assert.equal(this.dma.violations, []);
    assert.ok(await this.until(() => this.loop.idle, 1100), 'no timer, poller or watch is left');
    assert.not(this.fake.running, 'the device is quiet');
  }
}
