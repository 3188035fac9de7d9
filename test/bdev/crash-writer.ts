/** Writes blocks with FUA, eight at a time, and says which have ended, until it is killed. Arguments: file, round. */
import { writeSync } from 'node:fs';
import { BdevIo, BdevOp } from '../../src/bdev/bdev.ts';
import { createFileBdev } from '../../src/bdev/file-bdev.ts';
import { openChannel } from '../../src/bdev/open-channel.ts';
import { SgList } from '../../src/memory/sg-list.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { mapAnonymous } from '../../src/sys/mapping.ts';

const [, , path, round] = process.argv;
const loop = new EventLoop();
const disk = createFileBdev({ name: 'Aio0', filename: path });
const channel = openChannel(disk.share(), loop);
const memory = mapAnonymous(8 * 512).memoryAt(0, 8 * 512);
let next = 0;

function send(io: BdevIo): void {
  io.lba = next++ % disk.info.numBlocks;
  const at = io.sg.offset[0];
  memory.u8.fill(io.lba + Number(round), at, at + 512);
  channel.submit(io);
}

const owner = {
  ioDone(io: BdevIo): void {
    if (io.status !== 0) throw new Error(`status ${io.status}`);
    writeSync(1, `${io.lba}\n`);
    send(io);
  },
};

for (let i = 0; i < 8; i++) {
  const io = new BdevIo(owner, new SgList(1));
  io.op = BdevOp.WRITE;
  io.fua = true;
  io.blocks = 1;
  io.sg.push(memory, i * 512, 512);
  send(io);
}
for (;;) loop.turn(10);
