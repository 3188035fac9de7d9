/**
 * What one request costs, without a second process: front end and target take turns on one thread (the front end's
 * part is about 30 ns). Steadier than a two-core run on a busy machine, and its best samples are what the code costs
 * when nobody disturbs it; for finding what a change costs.
 *
 * `node --import tsx bench/request.ts [--op write] [--depth 32] [--bytes 4096] [--disk malloc|null] [--indirect] [--seconds 2]`
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createMallocBdev } from '../src/bdev/malloc-bdev.ts';
import { createNullBdev } from '../src/bdev/null-bdev.ts';
import { pinThread } from '../src/sys/affinity.ts';
import { EventLoop } from '../src/sys/event-loop.ts';
import type { CommandName, CommandParams } from '../src/target/commands.ts';
import { ReactorCore } from '../src/target/reactor-core.ts';
import { featureMask, VirtioFeature } from '../src/virtio/features.ts';
import { FrontEnd } from './load/front-end.ts';
import { scsi } from './load/protocol.ts';
import { QueueLoad, queueBytes } from './load/queue-load.ts';

const { values } = parseArgs({
  options: {
    op: { type: 'string', default: 'read' },
    depth: { type: 'string', default: '32' },
    bytes: { type: 'string', default: '4096' },
    disk: { type: 'string', default: 'malloc' },
    indirect: { type: 'boolean', default: false },
    seconds: { type: 'string', default: '2' },
    cpu: { type: 'string' },
  },
});
if (values.cpu !== undefined) pinThread(Number(values.cpu));

/** Requests a sample. */
const SAMPLE = 10_000;

const MIB = 2 ** 20;
const size = 64 * MIB;
const bdev =
  values.disk === 'null'
    ? createNullBdev({ name: 'Null0', numBlocks: size / 512, blockSize: 512 })
    : createMallocBdev({ name: 'Malloc0', numBlocks: size / 512, blockSize: 512 });

const loop = new EventLoop();
const core = new ReactorCore(loop);
function command<K extends CommandName>(name: K, params: CommandParams<K>): void {
  core.execute(name, params as never, (error) => {
    if (error !== undefined && error !== null) throw error;
  });
}
const dir = mkdtempSync('/dev/shm/vvu-request-');
const path = join(dir, 'vhost.0');
try {
  command('openController', { name: 'vhost.0', transport: 'unix', place: path, port: 1 });
  command('addTarget', { controller: 'vhost.0', target: 0, id: 0, bdev: bdev.share(), state: undefined });
  command('startController', { name: 'vhost.0' });

  const shape = {
    depth: Number(values.depth),
    bytes: Number(values.bytes),
    write: values.op === 'write',
    indirect: values.indirect,
    eventIdx: true,
    blocks: size / 512,
    blockSize: 512,
    seed: 1,
  };
  const features = [VirtioFeature.VERSION_1, VirtioFeature.EVENT_IDX, VirtioFeature.INDIRECT_DESC];
  const idle = 3 * 4096;
  const pump = () => {
    loop.turn(0);
  };
  const front = new FrontEnd(path, featureMask(...features), 2 * idle + queueBytes(shape), pump);
  for (const i of [0, 1]) front.startQueue(i, 8, { desc: i * idle, avail: i * idle + 4096, used: i * idle + 8192 });
  const load = new QueueLoad(front.memory, 2 * idle, scsi(0), shape);
  const [kick] = front.startQueue(2, load.size, load.place);
  front.settle();
  load.start(kick);

  const samples: number[] = [];
  const until = performance.now() + Number(values.seconds) * 1000;
  let begin = performance.now() * 1e6;
  let requests = 0;
  while (performance.now() < until) {
    for (let i = 0; i < 100; i++) {
      loop.turn(1); // never sleeps: there is always work
      requests += load.turn(false);
    }
    if (requests >= SAMPLE) {
      const now = performance.now() * 1e6;
      samples.push((now - begin) / requests);
      begin = performance.now() * 1e6;
      requests = 0;
    }
  }
  const steady = samples.slice(samples.length >> 1).sort((a, b) => a - b);
  const at = (q: number) => (steady[Math.floor(steady.length * q)] as number).toFixed(0);
  console.log(
    `${values.disk} ${values.op} ${values.bytes} qd${values.depth}${values.indirect ? ' indirect' : ''}: ` +
      `best ${at(0)}, p10 ${at(0.1)}, median ${at(0.5)} ns a request, ${samples.length} samples`,
  );
  front.close();
  loop.turn(0);
} finally {
  rmSync(dir, { recursive: true, force: true });
}
process.exit(0);
