/** A reactor for reactors.test.ts: writes its own part of a disk, reads it back, and says what it saw. Never leaves its loop meanwhile. */
import { parentPort, workerData } from 'node:worker_threads';
import { BdevIo, BdevOp, type BdevShare } from '../../src/bdev/bdev.ts';
import { openChannel } from '../../src/bdev/open-channel.ts';
import { SgList } from '../../src/memory/sg-list.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { mapAnonymous } from '../../src/sys/mapping.ts';

const { share, first, blocks, fill } = workerData as { share: BdevShare; first: number; blocks: number; fill: number };
const loop = new EventLoop();
const channel = openChannel(share, loop);
const mapping = mapAnonymous(blocks * 512);
const memory = mapping.memoryAt(0, blocks * 512);
let wrong = 0;

function all(op: BdevOp): void {
  let left = blocks;
  const owner = {
    ioDone(io: BdevIo): void {
      if (io.status !== 0) wrong++;
      left--;
    },
  };
  for (let i = 0; i < blocks; i++) {
    const io = new BdevIo(owner, new SgList(1));
    io.op = op;
    io.lba = first + i;
    io.blocks = 1;
    io.sg.push(memory, i * 512, 512);
    channel.submit(io);
  }
  while (left > 0) loop.turn(100);
}

memory.u8.fill(fill);
all(BdevOp.WRITE);
memory.u8.fill(0);
all(BdevOp.READ);
if (!memory.u8.every((b) => b === fill)) wrong++;
channel.close();
loop.close();
mapping.unmap();
parentPort?.postMessage(wrong);
