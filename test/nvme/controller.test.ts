/** The controller's state machine against a device in plain memory: starts, refusals, resets, loss. */

import { AdminOpcode } from '../../src/nvme/commands.ts';
import { NvmeController, type NvmeControllerOptions } from '../../src/nvme/controller.ts';
import { NvmeStatus } from '../../src/nvme/status.ts';
import { FakeDma } from '../support/fake-dma.ts';
import { FakeLoop } from '../support/fake-loop.ts';
import { assert, suite } from '../support/suite.ts';
import { FakeNvme, type FakeOptions } from './fake-controller.ts';

const test = suite('nvme controller');

interface Rig {
  loop: FakeLoop;
  dma: FakeDma;
  fake: FakeNvme;
  controller: NvmeController;
  /** undefined: not decided; null: it works */
  result: Error | null | undefined;
  lost: string[];
  changes: number;
  run(ms: number): void;
}

function rig(
  options: FakeOptions = {},
  own: NvmeControllerOptions = {},
  prepare: (fake: FakeNvme) => void = () => {},
): Rig {
  const loop = new FakeLoop();
  const dma = new FakeDma();
  const fake = new FakeNvme(dma, options);
  prepare(fake);
  const r: Rig = {
    loop,
    dma,
    fake,
    controller: undefined as unknown as NvmeController,
    result: undefined,
    lost: [],
    changes: 0,
    run: (ms) => {
      loop.until(
        () => false,
        ms,
        () => fake.step(),
      );
    },
  };
  try {
    r.controller = new NvmeController(
      fake,
      loop,
      { lost: (_, why) => r.lost.push(why), namespacesChanged: () => r.changes++ },
      own,
    );
  } catch (error) {
    r.result = error as Error;
    return r;
  }
  r.controller.start((error) => {
    r.result = error;
  });
  loop.until(
    () => r.result !== undefined,
    60_000,
    () => fake.step(),
  );
  if (r.result === null) r.run(3); // the event request is fetched
  return r;
}

function stop(r: Rig): void {
  let off = false;
  r.controller.shutdown(() => {
    off = true;
  });
  assert.ok(
    r.loop.until(
      () => off,
      20_000,
      () => r.fake.step(),
    ),
    'shuts down',
  );
  assert.is(r.dma.allocated, 0, 'all DMA memory is given back');
  assert.ok(r.loop.idle, 'no timer and no watch is left');
  assert.not(r.fake.master, 'bus mastering is off');
  assert.equal(r.dma.violations, []);
}

/** A start that must fail. @returns the message */
function refuses(options: FakeOptions, prepare?: (fake: FakeNvme) => void): string {
  const r = rig(options, { adminTimeoutMs: 1000 }, prepare);
  assert.instance(r.result, Error, 'refused');
  assert.is(r.dma.allocated, 0, 'all DMA memory is given back');
  assert.ok(r.loop.idle);
  assert.equal(r.dma.violations, []);
  const message = (r.result as Error).message;
  assert.match(message, '0000:00:06.0', 'the message names the device');
  return message;
}

test('starts, identifies, and shuts down in order', () => {
  const r = rig(
    {
      namespaces: [
        { blockSize: 512, blocks: 2048 },
        { blockSize: 4096, blocks: 100 },
      ],
    },
    { ioQueues: 2 },
  );
  assert.is(r.result, null);
  assert.is(r.controller.state, 'ready');
  assert.is(r.controller.info?.model, 'Fake NVMe Ctrl');
  assert.is(r.controller.info?.maxTransfer, 4096 << 7);
  assert.equal(
    r.controller.namespaces.map((n) => [n.nsid, n.blockSize, n.numBlocks]),
    [
      [1, 512, 2048],
      [2, 4096, 100],
    ],
  );
  assert.match(r.controller.namespaces[0]?.uuid ?? '', /^[0-9a-f]{8}-[0-9a-f]{4}-5/);
  assert.is(r.controller.queueCount, 2);
  assert.is(r.fake.eventRequests, 1, 'one event request is outstanding');
  stop(r);
  assert.equal(r.fake.history.slice(-2), ['shutdown', 'quiet'], 'a normal shutdown, then quiet');
  assert.is(r.fake.bar.u32[0x14 >> 2], 0, 'disabled');
});

test('a uuid made from serial numbers is the same at every start, and differs between namespaces', () => {
  const uuids = [1, 2].map(() => {
    const r = rig({
      namespaces: [
        { blockSize: 512, blocks: 8 },
        { blockSize: 512, blocks: 8 },
      ],
    });
    const both = r.controller.namespaces.map((n) => n.uuid);
    stop(r);
    return both;
  });
  assert.equal(uuids[0], uuids[1]);
  assert.is.not(uuids[0]?.[0], uuids[0]?.[1]);
});

test('takes over a controller that firmware left enabled', () => {
  const r = rig({}, {}, (fake) => {
    fake.bar.u32[0x14 >> 2] = 1 | (6 << 16) | (4 << 20);
    for (let i = 0; i < 5; i++) fake.step();
    assert.is(fake.bar.u32[0x1c >> 2], 1, 'the fake is ready before the driver comes');
  });
  assert.is(r.result, null);
  assert.is(r.fake.resets, 1);
  stop(r);
});

test('interrupts: vector 0 for the admin queue, one for every I/O queue there is one for', () => {
  const r = rig({ vectors: 3 }, { ioQueues: 4 });
  assert.is(r.result, null);
  assert.is(r.controller.queueCount, 2, 'three vectors serve two I/O queues');
  assert.ok(r.controller.usesInterrupts);
  assert.ok(r.fake.history.includes('interrupts 3'));
  stop(r);
});

test('capabilities that cannot be driven are refused by name', () => {
  assert.match(refuses({ mpsmin: 4 }), 'pages of 65536 bytes');
  assert.match(refuses({ css: 0x40 }), 'NVM command set');
  assert.match(refuses({ mqes: 0 }), 'MQES');
  assert.match(refuses({ dstrd: 12 }), 'doorbell stride of 16384');
  assert.match(refuses({ sqes: 0x77 }), 'SQES');
  assert.match(
    refuses({}, (f) => f.pull()),
    'all ones',
  );
});

test('a BAR that is too small is refused before anything is touched', () => {
  const r = rig({ barBytes: 0x1000 });
  assert.match((r.result as Error).message, 'BAR 0 has 4096 bytes');
});

test('a controller that does not become ready', () => {
  assert.match(refuses({ readySteps: 1e9, to: 2 }), /enable: CSTS.RDY did not become 1 in 1000 ms/);
});

test('a controller that does not stop', () => {
  const message = refuses({ to: 2 }, (fake) => {
    fake.step = () => 0;
    fake.quiet = () => {};
    fake.bar.u32[0x14 >> 2] = 1;
    fake.bar.u32[0x1c >> 2] = 1;
  });
  assert.match(message, /disable: CSTS.RDY did not become 0 in 1000 ms/);
});

test('a controller that does not stop is helped by a function reset', () => {
  const r = rig({ to: 2 }, {}, (fake) => {
    const step = fake.step.bind(fake);
    fake.step = () => (fake.history.includes('quiet') ? step() : 0);
    fake.bar.u32[0x14 >> 2] = 1;
    fake.bar.u32[0x1c >> 2] = 1;
  });
  assert.is(r.result, null);
  stop(r);
});

test('a controller that answers no admin command', () => {
  assert.match(
    refuses({}, (fake) => (fake.fault = () => -1)),
    'IDENTIFY was not answered in 1000 ms',
  );
});

test('a controller that refuses a step is told with the status', () => {
  const failing = (opcode: number) => (fake: FakeNvme) => {
    fake.fault = (c) => (c.sqid === 0 && c.opcode === opcode ? NvmeStatus.INTERNAL_ERROR : undefined);
  };
  assert.match(refuses({}, failing(AdminOpcode.IDENTIFY)), 'identify controller: INTERNAL_ERROR (0/06h)');
  assert.match(refuses({}, failing(AdminOpcode.SET_FEATURES)), 'number of queues');
  assert.match(refuses({}, failing(AdminOpcode.CREATE_IO_CQ)), 'create completion queue 1');
  assert.match(refuses({}, failing(AdminOpcode.CREATE_IO_SQ)), 'create submission queue 1');
});

test('a completion for a command that is not outstanding', () => {
  let forged = false;
  const message = refuses({}, (fake) => {
    const step = fake.step.bind(fake);
    fake.step = () => {
      const n = step();
      if (!forged && fake.bar.u32[0x1c >> 2] === 1) {
        forged = true;
        fake.forge(0, 77, 0);
      }
      return n;
    };
  });
  assert.match(message, 'completed command 77, which is not outstanding');
});

test('namespaces that cannot be served are told, and the others are served', () => {
  const r = rig({
    namespaces: [
      { blockSize: 512, blocks: 8, metadata: 8 },
      { blockSize: 512, blocks: 8, claimedBlocks: 2n ** 60n },
      { blockSize: 4096, blocks: 8 },
      { blockSize: 512, blocks: 0 },
    ],
  });
  assert.is(r.result, null);
  assert.equal(
    r.controller.namespaces.map((n) => n.nsid),
    [3],
  );
  assert.is(r.controller.refused.length, 2);
  assert.match(r.controller.refused[0] ?? '', '8 bytes of metadata');
  assert.match(r.controller.refused[1] ?? '', 'not a size a disk can have');
  stop(r);
});

test('an event leads to a rescan and to a new request', () => {
  const r = rig();
  const ns = r.fake.options.namespaces[0] as { blocks: number };
  ns.blocks = 1000;
  assert.ok(r.fake.event(0x04_0002), 'a request is outstanding'); // notice, namespaces changed, log page 4
  r.run(2000);
  assert.is(r.controller.namespaces[0]?.numBlocks, 1000);
  assert.is(r.changes, 1);
  assert.is(r.fake.eventRequests, 1);
  stop(r);
});

test('reset: everything is set up again', () => {
  const r = rig({}, { ioQueues: 3 });
  r.controller.reset('a test');
  r.run(100);
  assert.is(r.controller.state, 'ready');
  assert.is(r.controller.stats.resets, 1);
  assert.is(r.fake.resets, 1);
  assert.is(r.fake.eventRequests, 1);
  assert.equal(r.lost, []);
  stop(r);
});

test('fatal status leads to a reset', () => {
  const r = rig();
  r.fake.setFatal();
  r.run(3000);
  assert.is(r.controller.state, 'ready');
  assert.match(r.controller.reason, 'CSTS.CFS');
  stop(r);
});

test('a controller that comes back as another one is given up', () => {
  const r = rig();
  r.fake.serial = 'OTHER';
  r.controller.reset('a test');
  r.run(3000);
  assert.is(r.controller.state, 'failed');
  assert.match(r.lost[0] ?? '', 'OTHER');
  assert.not(r.fake.master);
  stop(r);
});

test('a controller that never comes back from a reset is given up, quiet', () => {
  const r = rig({ to: 1 });
  r.fake.hung = true;
  r.fake.fault = () => -1;
  r.controller.reset('a test');
  r.run(200_000);
  assert.is(r.controller.state, 'failed');
  assert.is(r.lost.length, 1);
  assert.not(r.fake.master);
  stop(r);
});

test('pulled out: noticed while idle, and told once', () => {
  const r = rig();
  r.fake.pull();
  r.run(3000);
  assert.is(r.controller.state, 'removed');
  assert.is(r.lost.length, 1);
  assert.match(r.lost[0] ?? '', 'has gone');
  stop(r);
});

test('the host asks for the device back', () => {
  const r = rig();
  r.fake.requestRemoval();
  assert.is(r.controller.state, 'removed');
  assert.not(r.fake.master, 'quiet at once');
  stop(r);
});

test('the dump shows registers by their names', () => {
  const r = rig();
  const dump = r.controller.dump() as { registers: Record<string, Record<string, number>> };
  assert.is(dump.registers['CSTS']?.['RDY'], 1);
  assert.is(dump.registers['CC']?.['IOSQES'], 6);
  assert.is(dump.registers['CAP']?.['MQES'], 1023);
  assert.is(dump.registers['VS']?.['MNR'], 4);
  stop(r);
});

test.run();
