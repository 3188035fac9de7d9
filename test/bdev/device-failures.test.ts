/** Devices that fail, are lost or are let go of in the middle of something: everything is given back, and nobody is told of disks that are not there. */
import { NvmeDisks } from '../../src/bdev/nvme-disks.ts';
import { Memory } from '../../src/memory/memory.ts';
import type { NvmeDevice } from '../../src/nvme/device.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { leakedFds, openFds } from '../support/open-fds.ts';
import { assert, suite } from '../support/suite.ts';
import { VirtioRig } from './virtio-scsi-rig.ts';

const test = suite('device failures');

/** Events were lost: everything is scanned. */
const MISSED = 0x8000_0000;

const reasonOf = (promise: Promise<unknown>): Promise<Error | null> =>
  promise.then(
    () => null,
    (error: Error) => error,
  );

test('a controller that cannot even be made is given back', async () => {
  const loop = new EventLoop();
  let released = 0;
  const device = { name: '0000:00:06.0', bar: new Memory(new ArrayBuffer(4096)) } as unknown as NvmeDevice;
  const open = () => ({ device, mode: 'none', release: () => void released++ });
  const disks = new NvmeDisks(null, loop, { added() {}, removed() {}, resized() {} }, open);
  const error = await reasonOf(disks.attach({ name: 'N', traddr: '0000:00:06.0' }));
  assert.is(released, 1);
  assert.match(error?.message ?? '', /BAR 0 has 4096 bytes/);
  assert.is((error as { code?: string } | null)?.code, 'EIO');
  loop.close();
});

test('whichever piece of memory is missing: the reason is told, and the others are given back', async () => {
  let failures = 0;
  for (let n = 0; ; n++) {
    const rig = new VirtioRig({ queues: 2 });
    rig.fake.addDisk(0, 0);
    const allocate = rig.dma.allocate.bind(rig.dma);
    let count = 0;
    rig.dma.allocate = (bytes, contiguous) => {
      if (count++ === n) throw new Error('no such memory');
      return allocate(bytes, contiguous);
    };
    const before = openFds();
    const error = await rig.await(reasonOf(rig.attach({ vqCount: 2 })));
    if (error === null) {
      await rig.stop();
      break;
    }
    failures++;
    assert.match(error.message, /no such memory/, `allocation ${n}`);
    assert.is(rig.dma.allocated, 0, `allocation ${n}`);
    assert.ok(rig.loop.idle, 'no timer, poller or watch is left');
    assert.equal(leakedFds(before), [], `allocation ${n}`);
  }
  assert.ok(failures > 10, `${failures}`);
});

/** Every answer of the device takes so long: what is begun has many moments. Turns of the loop. */
function slow({ fake }: VirtioRig): void {
  for (const name of ['reset', 'negotiate', 'enableQueue', 'start'] as const) {
    const work = fake[name].bind(fake) as (...args: unknown[]) => Promise<never>;
    fake[name] = async (...args: unknown[]) => {
      for (let i = 0; i < 2; i++) await new Promise((resolve) => setImmediate(resolve));
      return work(...args);
    };
  }
}

test('a channel that is opened at any moment of a reset works after it', async () => {
  for (let ms = 0; ms < 40; ms++) {
    const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0), {}, { vqCount: 2 });
    slow(rig);
    rig.disks.reset('V');
    await rig.time(ms);
    const channel = rig.open();
    assert.ok(channel, `after ${ms} ms`);
    await rig.time(60);
    rig.disks.reset('V');
    await rig.time(60);
    const [shown] = rig.disks.describe('V') as [{ virtio: { state: string } }];
    assert.is(shown.virtio.state, 'ready');
    await rig.stop();
  }
});

test('a reset that is asked for just as the device is detached, in the middle of a scan', async () => {
  const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0));
  const { fake } = rig;
  const [bdev] = rig.bdevs;
  fake.auto = false;
  fake.event(MISSED, 0, 0, 0);
  assert.ok(await rig.until(() => fake.pending.length > 0, 3000), 'a scan is under way');
  const ended = rig.disks.detach('V');
  bdev?.['parts'].adapter.reset('as it asks for it');
  await rig.await(ended, 10_000);
  await rig.stop();
});

test('a device that is lost in the middle of its first scan is not attached', async () => {
  for (let commands = 1; commands < 40; commands++) {
    const rig = new VirtioRig({ maxTarget: 3 });
    for (const target of [0, 1, 2, 3]) rig.fake.addDisk(target, 0);
    rig.fake.fault = () => {
      if (rig.fake.done.length === commands) queueMicrotask(() => rig.fake.requestRemoval());
      return undefined;
    };
    const error = await rig.await(reasonOf(rig.attach()));
    if (error === null && rig.bdevs.length > 0) {
      const [shown] = rig.disks.describe('V') as [{ virtio: { state: string } }];
      assert.is(shown.virtio.state, 'ready', `lost at command ${commands}, with ${rig.bdevs.length} disks`);
    }
    await rig.stop();
  }
});

test('a device that is lost in the middle of a later scan has no disks', async () => {
  for (let commands = 1; commands < 40; commands++) {
    const rig = await VirtioRig.with((fake) => [0, 1].map((t) => fake.addDisk(t, 0)), { maxTarget: 1 });
    const { fake } = rig;
    const from = fake.done.length;
    fake.fault = () => {
      if (fake.done.length === from + commands) queueMicrotask(() => fake.requestRemoval());
      return undefined;
    };
    fake.event(MISSED, 0, 0, 0);
    await rig.time(300);
    const [shown] = rig.disks.describe('V') as [{ virtio: { state: string }; disks: string[] }];
    if (shown.virtio.state !== 'ready')
      assert.equal(shown.disks, [], `lost at command ${commands}: ${rig.told.join('; ')}`);
    await rig.stop();
  }
});

test('a device that is asked back at any moment of its start or of a reset is lost, and quiet', async () => {
  const seen = new Set<string>();
  for (let ms = 0; ms < 40; ms++) {
    const rig = new VirtioRig();
    rig.fake.addDisk(0, 0);
    slow(rig);
    const attached = reasonOf(rig.attach());
    await rig.time(ms);
    rig.fake.requestRemoval();
    const error = await rig.await(attached);
    seen.add(error === null ? 'attached' : 'refused');
    if (error === null) {
      await rig.time(20);
      const [shown] = rig.disks.describe('V') as [{ virtio: { state: string }; disks: string[] }];
      assert.equal([shown.virtio.state, shown.disks], ['removed', []], `in its start, after ${ms} ms`);
    }
    assert.not(rig.fake.running, `in its start, after ${ms} ms`);
    await rig.stop();

    const again = await VirtioRig.with((fake) => fake.addDisk(0, 0));
    slow(again);
    again.disks.reset('V');
    await again.time(ms);
    again.fake.requestRemoval();
    await again.time(60);
    assert.not(again.fake.running, `in a reset, after ${ms} ms`);
    assert.equal(again.told, ['removed Vt0 1024']);
    await again.stop();
  }
  assert.ok(seen.has('refused'));
});

test.run();
