/** Child of heap.test.ts: 10^6 requests from ring to ring, then the growth of the heap as JSON. */
import { IoList } from '../../src/virtio/io-list.ts';
import { LINUX_FEATURES } from '../support/front-end.ts';
import { read10, write10 } from '../support/front-end-scsi.ts';
import { heapLoad } from './heap-load.ts';
import { Rig } from './rig.ts';

const BATCH = 32;
const BLOCK = 512;
const rig = new Rig();
rig.addMalloc(1);
const { frontEnd } = rig.boot({}, LINUX_FEATURES);
const { guest } = frontEnd;

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

const use = heapLoad(rig.loop, frontEnd.ring(2), requests);
const { scsi } = rig.session.describe() as { scsi: { requests: number } };
console.log(JSON.stringify({ requests: scsi.requests, ...use }));
rig.close();
