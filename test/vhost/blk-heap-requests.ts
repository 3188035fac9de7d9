/** Child of blk-heap.test.ts: 10^6 block requests from ring to ring, then the growth of the heap as JSON. */
import { createMallocBdev } from '../../src/bdev/malloc-bdev.ts';
import { openMallocChannel } from '../../src/bdev/malloc-channel.ts';
import { BlkController } from '../../src/vhost/blk-controller.ts';
import { BlkModel } from '../../src/vhost/blk-model.ts';
import { VhostServer } from '../../src/vhost/server.ts';
import { IoList } from '../../src/virtio/io-list.ts';
import { FrontEnd } from '../support/front-end.ts';
import { ALL_FEATURES, BLK_PROTOCOL, T } from '../support/front-end-blk.ts';
import { SharedGuest } from '../support/front-end-memory.ts';
import { BlkRig } from './blk-rig.ts';
import { heapLoad } from './heap-load.ts';

const BATCH = 32;
const BLOCK = 512;
const rig = new BlkRig();
const { loop } = rig;
const disk = createMallocBdev({ name: 'Malloc0', numBlocks: 2048 });
const controller = new BlkController(loop, openMallocChannel(disk.share()));
const path = `${rig.server.path}.malloc`;
const server = new VhostServer({ loop, path, model: () => new BlkModel(controller) });
const guest = new SharedGuest();
const frontEnd = new FrontEnd({ loop, path, guest, protocol: BLK_PROTOCOL, queues: 1 });
frontEnd.init();
frontEnd.makeRings([0], ALL_FEATURES);
frontEnd.start(ALL_FEATURES);

/** A request's buffers are made once; half of them read, half write. */
const requests = Array.from({ length: BATCH }, (_, i) => {
  const reads = i % 2 === 0;
  const [out, into] = [new IoList(2), new IoList(2)];
  const header = guest.alloc(16, 4);
  guest.write(header, [reads ? T.IN : T.OUT, 0, 0, 0, 0, 0, 0, 0, i]);
  out.pushAddress(header, 16);
  (reads ? into : out).pushAddress(guest.alloc(BLOCK, 4), BLOCK);
  into.pushAddress(guest.alloc(1, 1), 1);
  return { out, into };
});

const use = heapLoad(loop, frontEnd.ring(0), requests);
const [session] = [...server.sessions];
const { block } = session.describe() as { block: { requests: number; failed: number } };
console.log(JSON.stringify({ ...block, ...use }));
frontEnd.close();
server.close();
while (server.sessions.size > 0) loop.turn(0);
guest.close();
rig.close();
disk.destroy();
