/** Child of heap.test.ts: 10^6 requests from ring to ring, then the growth of the heap as JSON. */
import { getHeapSpaceStatistics } from 'node:v8';
import { createMallocBdev } from '../../src/bdev/malloc-bdev.ts';
import { openMallocChannel } from '../../src/bdev/malloc-channel.ts';
import { Lun } from '../../src/scsi/lun.ts';
import { ScsiTarget } from '../../src/scsi/target.ts';
import { IoList } from '../../src/virtio/io-list.ts';
import { LINUX_FEATURES } from '../support/front-end.ts';
import { read10, write10 } from '../support/front-end-scsi.ts';
import { Rig } from './rig.ts';

const BATCH = 32;
const BLOCK = 512;
const rig = new Rig();
const disk = createMallocBdev({ name: 'Malloc0', numBlocks: 2048 });
const target = new ScsiTarget();
target.addLun(new Lun({ channel: openMallocChannel(disk.share()), id: 0, clock: rig.loop }));
rig.controller.add(1, target);
const frontEnd = rig.connect();
frontEnd.init();
frontEnd.makeRings([0, 1, 2], LINUX_FEATURES);
frontEnd.start();
const { guest, loop } = frontEnd;
const ring = frontEnd.ring(2);

/** A request's buffers are made once; half of them read, half write. */
const requests = Array.from({ length: BATCH }, (_, i) => {
  const reads = i % 2 === 0;
  const [out, into] = [new IoList(2), new IoList(2)];
  const header = guest.alloc(51, 1);
  guest.write(header, [1, 1, 0, 0, 0, 0, 0, 0, i]);
  guest.write(header + 19, reads ? read10(i, 1) : write10(i, 1));
  out.pushAddress(header, 51);
  into.pushAddress(guest.alloc(108, 4), 108);
  (reads ? into : out).pushAddress(guest.alloc(BLOCK, 4), BLOCK);
  return { out, into };
});

function cycle(): void {
  for (let i = 0; i < BATCH; i++) {
    if (ring.driver.add(requests[i].out, requests[i].into, false) < 0) throw new Error('full');
  }
  if (ring.driver.publish()) ring.kick.signal();
  for (let done = 0; done < BATCH; ) {
    loop.turn(0);
    while (ring.driver.poll() >= 0) done++;
  }
  ring.call.drain();
}

const run = (count: number) => {
  for (let i = 0; i < count; i += BATCH) cycle();
};
const inUse = () => getHeapSpaceStatistics().reduce((sum, space) => sum + space.space_used_size, 0);

run(200_000); // warm up: code, feedback and slots are allocated too
const collect = globalThis.gc;
if (collect === undefined) throw new Error('run with --expose-gc');
collect();
collect();
const before = inUse();
const start = performance.now();
run(1_000_000);
const seconds = (performance.now() - start) / 1000;
const allocated = inUse() - before;
collect();
collect();
const grown = inUse() - before;
const { scsi } = rig.session.describe() as { scsi: { requests: number } };
console.log(JSON.stringify({ requests: scsi.requests, grown, allocated, perSecond: Math.round(1e6 / seconds) }));
rig.close();
disk.destroy();
