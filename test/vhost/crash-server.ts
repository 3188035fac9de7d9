/**
 * A back end to kill: serves a file as target 0 at a socket, and holds back every request after the first so many.
 * `node --import tsx crash-server.ts SOCKET FILE BYTES COMPLETE`
 */

import { Lun } from '../../src/scsi/lun.ts';
import { ScsiTarget } from '../../src/scsi/target.ts';
import { O } from '../../src/sys/constants.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { open } from '../../src/sys/fd.ts';
import { mapFile } from '../../src/sys/mapping.ts';
import { ScsiController } from '../../src/vhost/scsi-controller.ts';
import { ScsiModel } from '../../src/vhost/scsi-model.ts';
import { VhostServer } from '../../src/vhost/server.ts';
import { SlowDisk } from './slow-disk.ts';

const [path, file, bytes, complete] = process.argv.slice(2) as [string, string, string, string];
const fd = open(file, O.RDWR);
const memory = mapFile(fd, { size: Number(bytes) }).memoryAt(0, Number(bytes));
const disk = new SlowDisk(Number(bytes) / 512, 512, memory);
disk.holdAfter = Number(complete);
const loop = new EventLoop();
const controller = new ScsiController(loop);
const target = new ScsiTarget();
target.addLun(new Lun({ channel: disk, id: 0, clock: loop }));
controller.add(0, target);
new VhostServer({ loop, path, model: () => new ScsiModel(controller) });
process.stdout.write('listening\n');
for (;;) loop.turn(20);
