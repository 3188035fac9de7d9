/** Controllers by name, their disks as they come and go, and reactors on threads of their own. */
import type { Bdev } from '../../src/bdev/bdev.ts';
import { NvmeDisks } from '../../src/bdev/nvme-disks.ts';
import { NvmOpcode } from '../../src/nvme/commands.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { startWorker } from '../../src/sys/worker.ts';
import { FakeNvme, type FakeOptions } from '../nvme/fake-controller.ts';
import { FakeDma } from '../support/fake-dma.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('nvme disks');

/** The main thread: a loop, a device that is stepped by it, and what it was told of disks. */
class Rig {
  readonly loop = new EventLoop({ spinMicroseconds: 0 });
  readonly dma = new FakeDma();
  readonly fake: FakeNvme;
  readonly told: string[] = [];
  readonly disks: NvmeDisks;
  private readonly timer: NodeJS.Timeout;

  constructor(options: FakeOptions = {}) {
    this.fake = new FakeNvme(this.dma, options);
    const note = (what: string) => (bdev: Bdev) => this.told.push(`${what} ${bdev.info.name} ${bdev.info.numBlocks}`);
    this.disks = new NvmeDisks(null, this.loop, {
      added: note('added'),
      removed: note('removed'),
      resized: note('resized'),
    });
    this.loop.attach();
    this.timer = setInterval(() => this.fake.step(), 1);
  }

  async until(done: () => boolean): Promise<void> {
    for (let i = 0; i < 10_000; i++) {
      if (done()) return;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    assert.unreachable('it never came');
  }

  async stop(): Promise<void> {
    await this.disks.close();
    clearInterval(this.timer);
    this.loop.close();
    assert.is(this.dma.allocated, 0);
    assert.equal(this.dma.violations, []);
  }
}

test('attach, see, detach; names are unique', async () => {
  const rig = new Rig({
    namespaces: [
      { blockSize: 512, blocks: 100 },
      { blockSize: 4096, blocks: 50 },
    ],
  });
  const bdevs = await rig.disks.attachDevice('NVMe1', rig.fake);
  assert.equal(
    bdevs.map(({ info }) => [
      info.name,
      info.product,
      info.blockSize,
      info.numBlocks,
      info.unmapZeroes,
      info.writeCache,
    ]),
    [
      ['NVMe1n1', 'NVMe disk', 512, 100, true, true],
      ['NVMe1n2', 'NVMe disk', 4096, 50, true, true],
    ],
  );
  assert.is(structuredClone(bdevs[0]?.share())?.kind, 'nvme');
  const described = bdevs[0]?.describe() as { nvme: [{ pci_address: string; trid: unknown }] };
  assert.is(described.nvme[0].pci_address, '0000:00:06.0');
  assert.equal(described.nvme[0].trid, { trtype: 'PCIe', traddr: '0000:00:06.0' });
  const [shown] = rig.disks.describe('NVMe1') as [{ name: string; ctrlrs: [{ state: string }] }];
  assert.equal([shown.name, shown.ctrlrs[0].state], ['NVMe1', 'enabled']);
  let message = '';
  await rig.disks.attachDevice('NVMe1', rig.fake).catch((error: Error) => {
    message = error.message;
  });
  assert.match(message, 'device NVMe1 exists already');
  await rig.disks.detach('NVMe1');
  assert.throws(() => rig.disks.describe('NVMe1'), /there are none/);
  await rig.stop();
});

test('a controller with nothing to serve is let go again', async () => {
  const rig = new Rig({ namespaces: [{ blockSize: 512, blocks: 8, metadata: 8 }] });
  let message = '';
  await rig.disks.attachDevice('A', rig.fake).catch((error: Error) => {
    message = error.message;
  });
  assert.match(message, /nothing to serve: .*8 bytes of metadata/);
  assert.not(rig.fake.master);
  await rig.stop();
});

test('namespaces grow, come and go while attached', async () => {
  const rig = new Rig({ namespaces: [{ blockSize: 512, blocks: 100 }] });
  await rig.disks.attachDevice('N', rig.fake);
  const list = rig.fake.options.namespaces;
  (list[0] as { blocks: number }).blocks = 200;
  list.push({ blockSize: 512, blocks: 7 });
  await rig.until(() => rig.fake.event(0x04_0002));
  await rig.until(() => rig.told.length === 2);
  assert.equal(rig.told, ['resized Nn1 200', 'added Nn2 7']);
  list.pop();
  await rig.until(() => rig.fake.event(0x04_0002));
  await rig.until(() => rig.told.length === 3);
  assert.is(rig.told[2], 'removed Nn2 7');
  await rig.stop();
});

test('pulled out: its disks go, and the name can be detached and used again', async () => {
  const rig = new Rig();
  await rig.disks.attachDevice('N', rig.fake);
  rig.fake.pull();
  await rig.until(() => rig.told.length === 1);
  assert.is(rig.told[0], 'removed Nn1 2048');
  assert.equal(rig.disks.disks('N'), []);
  await rig.disks.detach('N');
  assert.equal(rig.disks.names, []);
  await rig.stop();
});

async function underLoad(
  rig: Rig,
  reactors: number,
  rounds: number,
  meanwhile: (ended: () => boolean) => Promise<void>,
) {
  const [bdev] = await rig.disks.attachDevice('N', rig.fake, { ioQueues: reactors, timeoutMs: 20_000 });
  const depth = 8;
  const results: { counts: Record<string, number>; wrong: number }[] = [];
  const exits = Array.from({ length: reactors }, (_, i) => {
    const guest = rig.dma.allocate(depth * 8192, false);
    const data = { share: bdev?.share(), guest: guest.share(), rounds, depth, first: i * depth * 8 };
    const worker = startWorker(new URL('./nvme-worker.ts', import.meta.url), data);
    worker.on('message', (result) => results.push(result));
    return new Promise<void>((resolve, reject) => {
      worker.on('error', reject);
      worker.on('exit', () => {
        guest.free();
        resolve();
      });
    });
  });
  let ended = false;
  await Promise.all([
    Promise.all(exits).finally(() => {
      ended = true;
    }),
    meanwhile(() => ended),
  ]);
  assert.is(results.length, reactors);
  return results;
}

for (const vectors of [0, 8]) {
  test(`two reactors, resets under load, ${vectors === 0 ? 'polling' : 'sleeping on interrupts'}: no request is lost`, async () => {
    const rig = new Rig({ vectors });
    const results = await underLoad(rig, 2, 60, async (ended) => {
      await rig.until(() => (rig.fake.done.get(NvmOpcode.WRITE) ?? 0) > 5);
      for (let i = 0; i < 5 && !ended(); i++) {
        await new Promise((resolve) => setTimeout(resolve, 60));
        rig.disks.reset('N');
      }
    });
    for (const { counts, wrong } of results) {
      assert.is(wrong, 0, 'what was read is what was written');
      assert.equal(counts, { OK: 2 * 8 * 60 });
    }
    assert.ok(rig.fake.resets >= 1);
    await rig.stop();
  });
}

test('pulled out under load of a reactor: everything ends', async () => {
  const rig = new Rig({ vectors: 8 });
  const results = await underLoad(rig, 1, 1e6, async () => {
    await rig.until(() => (rig.fake.done.get(NvmOpcode.READ) ?? 0) > 20);
    rig.fake.pull();
  });
  assert.is(results[0]?.counts['REMOVED'], 8, 'each of the eight in flight, once');
  assert.is(results[0]?.wrong, 0);
  assert.is(rig.told.length, 1);
  await rig.stop();
});

test('the end waits for a controller that is being detached', async () => {
  const rig = new Rig({ namespaces: [{ blockSize: 512, blocks: 100 }] });
  await rig.disks.attachDevice('NVMe1', rig.fake);
  let gone = false;
  const detached = rig.disks.detach('NVMe1').then(() => {
    gone = true;
  });
  await rig.disks.close();
  assert.ok(gone, 'who closes the device next finds nobody at it');
  await detached;
  await rig.stop();
});

test.run();
