/** A reactor on a thread of its own: writes and reads back a disk through a channel, and tells how every request ended. */
import { parentPort, workerData } from 'node:worker_threads';
import { BdevIo, BdevOp, type BdevShare, BdevStatus } from '../../src/bdev/bdev.ts';
import { openChannel } from '../../src/bdev/open-channel.ts';
import { SgList } from '../../src/memory/sg-list.ts';
import { adoptDma, type DmaShare } from '../../src/pci/dma.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';

const { share, guest, rounds, depth, first } = workerData as {
  share: BdevShare;
  guest: DmaShare;
  rounds: number;
  depth: number;
  /** First block of this worker's part of the disk. */
  first: number;
};
const loop = new EventLoop({ spinMicroseconds: 50 });
const channel = openChannel(share, loop);
const memory = adoptDma(guest);
const counts: Record<string, number> = {};
let wrong = 0;
let running = depth;

/** One slot: write a pattern, read it back, again. */
function start(slot: number): void {
  const at = slot * 8192;
  const lba = first + slot * 8;
  let round = 0;
  const sg = new SgList(1);
  const io = new BdevIo({
    ioDone: () => {
      const name = Object.keys(BdevStatus).find(
        (k) => BdevStatus[k as keyof typeof BdevStatus] === io.status,
      ) as string;
      counts[name] = (counts[name] ?? 0) + 1;
      const write = io.op === BdevOp.WRITE;
      if (!write && io.status === BdevStatus.OK) {
        for (let i = 0; i < 1024; i++) if (memory.u32[(at + 4096 + 4 * i) >> 2] !== slot * 1000 + round + i) wrong++;
      }
      if (!write) round++;
      if (round === rounds || (io.status !== BdevStatus.OK && io.status !== BdevStatus.ABORTED)) {
        if (--running === 0) finish();
        return;
      }
      submit(write ? BdevOp.READ : BdevOp.WRITE);
    },
  });
  const submit = (op: BdevOp) => {
    io.op = op;
    io.lba = lba;
    io.blocks = 8;
    sg.reset();
    sg.push(memory, op === BdevOp.WRITE ? at : at + 4096, 4096);
    io.sg = sg;
    if (op === BdevOp.WRITE) for (let i = 0; i < 1024; i++) memory.u32[(at + 4 * i) >> 2] = slot * 1000 + round + i;
    channel.submit(io);
  };
  submit(BdevOp.WRITE);
}

function finish(): void {
  // Not before the loop runs, also when everything ends at once.
  loop.defer(() => {
    channel.close();
    loop.stop();
  });
}

for (let slot = 0; slot < depth; slot++) start(slot);
await loop.run();
loop.close();
parentPort?.postMessage({ counts, wrong });
