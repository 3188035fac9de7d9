/**
 * What one request costs, without a second process: front end and target take turns on one thread (the front end's
 * part is about 15 ns). Steadier than a two-core run on a busy machine, and its best samples are what the code costs
 * when nobody disturbs it; for finding what a change costs.
 *
 * `node --import tsx bench/request.ts [--op write] [--depth 32] [--bytes 4096] [--disk malloc|null] [--device scsi|blk] [--indirect] [--memory 2G] [--disk-size 1G] [--idle N] [--seconds 2]`
 */
import { parseArgs } from 'node:util';
import { parseSize } from '../src/cli/options.ts';
import { pinThread } from '../src/sys/affinity.ts';
import { InProcess } from './in-process.ts';

const { values } = parseArgs({
  options: {
    op: { type: 'string', default: 'read' },
    depth: { type: 'string', default: '32' },
    bytes: { type: 'string', default: '4096' },
    disk: { type: 'string', default: 'malloc' },
    device: { type: 'string', default: 'scsi' },
    indirect: { type: 'boolean', default: false },
    /** Of the guest, e.g. 2G, the data buffers being at its end; and of the disk. */
    memory: { type: 'string' },
    'disk-size': { type: 'string' },
    /** Idle controllers on the same reactor. */
    idle: { type: 'string', default: '0' },
    seconds: { type: 'string', default: '2' },
    cpu: { type: 'string' },
  },
});
if (values.cpu !== undefined) pinThread(Number(values.cpu));

/** Requests a sample. */
const SAMPLE = 10_000;

const run = new InProcess({
  disk: values.disk === 'null' ? 'null' : 'malloc',
  device: values.device === 'blk' ? 'blk' : 'scsi',
  write: values.op === 'write',
  depth: Number(values.depth),
  bytes: Number(values.bytes),
  indirect: values.indirect,
  memory: values.memory === undefined ? undefined : parseSize(values.memory),
  diskBytes: values['disk-size'] === undefined ? undefined : parseSize(values['disk-size']),
  idle: Number(values.idle),
});
const samples: number[] = [];
const until = performance.now() + Number(values.seconds) * 1000;
let begin = performance.now() * 1e6;
let requests = 0;
while (performance.now() < until) {
  for (let i = 0; i < 100; i++) requests += run.turn();
  if (requests >= SAMPLE) {
    const now = performance.now() * 1e6;
    samples.push((now - begin) / requests);
    begin = performance.now() * 1e6;
    requests = 0;
  }
}
run.close();
const steady = samples.slice(samples.length >> 1).sort((a, b) => a - b);
const at = (q: number) => (steady[Math.floor(steady.length * q)] as number).toFixed(0);
console.log(
  `${values.device === 'blk' ? 'blk ' : ''}${values.disk} ${values.op} ${values.bytes} qd${values.depth}${values.indirect ? ' indirect' : ''}` +
    `${values.memory === undefined ? '' : `, guest of ${values.memory}`}` +
    `${values['disk-size'] === undefined ? '' : `, disk of ${values['disk-size']}`}` +
    `${values.idle === '0' ? '' : `, ${values.idle} idle controllers`}: ` +
    `best ${at(0)}, p10 ${at(0.1)}, median ${at(0.5)} ns a request, ${samples.length} samples`,
);
process.exit(0);
