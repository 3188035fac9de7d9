import { type BdevChannel, type BdevIo, BdevStatus } from '../../../src/bdev/bdev.ts';
import { Memory } from '../../../src/memory/memory.ts';
import { Lun } from '../../../src/scsi/lun.ts';
import { ScsiTarget } from '../../../src/scsi/target.ts';
import { ScsiTask } from '../../../src/scsi/task.ts';
import { INFO } from './memory-channel.ts';

/**
 * Runs in a process of its own with --expose-gc: a million READ(10) and WRITE(10), 32 in flight, over a disk that does
 * nothing. Prints how much the heap grew, and the time a command took, as JSON.
 */

/** Keeps requests until the end of the pass, as a disk does. */
class NullChannel implements BdevChannel {
  readonly info = { ...INFO, numBlocks: 1 << 20 };
  readonly zeroCopy = true;
  private readonly queue: (BdevIo | null)[] = new Array(64).fill(null);
  private count = 0;

  get inFlight(): number {
    return this.count;
  }

  submit(io: BdevIo): void {
    this.queue[this.count++] = io;
  }

  poll(): number {
    const n = this.count;
    this.count = 0;
    for (let i = 0; i < n; i++) {
      const io = this.queue[i]!;
      io.status = BdevStatus.OK;
      io.owner.ioDone(io);
    }
    return n;
  }

  reset(): void {}
  close(): void {}
}

const COMMANDS = 1_000_000;
const DEPTH = 32;

const channel = new NullChannel();
const target = new ScsiTarget();
const clock = { now: 0 };
target.addLun(new Lun({ id: 0, channel, clock }));
const memory = new Memory(new ArrayBuffer(4096));
let done = 0;
const owner = {
  taskDone(task: ScsiTask): void {
    if (task.status === 0 && task.transferred === 4096) done++;
  },
};
const tasks = Array.from({ length: DEPTH }, (_, i) => {
  const task = new ScsiTask(owner);
  task.cdb[0] = i % 2 === 0 ? 0x28 : 0x2a;
  task.cdb[8] = 8;
  return task;
});

function run(commands: number): void {
  for (let n = 0; n < commands; n += DEPTH) {
    for (let i = 0; i < DEPTH; i++) {
      const task = tasks[i];
      const sg = task.cdb[0] === 0x28 ? task.dataIn : task.dataOut;
      sg.reset();
      sg.push(memory, 0, 4096);
      task.cdb[4] = n >>> 3;
      task.cdb[5] = i;
      task.tagLo = n + i;
      target.execute(task);
    }
    clock.now += 1000;
    channel.poll();
    target.poll();
  }
}

declare const gc: () => void;

run(200_000); // warm up
gc();
const before = process.memoryUsage().heapUsed;
const start = process.hrtime.bigint();
done = 0;
run(COMMANDS);
const nanoseconds = Number(process.hrtime.bigint() - start) / COMMANDS;
// Without a collection: what was allocated and is garbage counts too.
const growth = process.memoryUsage().heapUsed - before;
console.log(JSON.stringify({ done, growth, nanoseconds }));
