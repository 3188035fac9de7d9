/**
 * What 10^6 requests leave on the heap. Both ends of the ring run on this thread.
 */
import { getHeapSpaceStatistics } from 'node:v8';
import type { EventLoop } from '../../src/sys/event-loop.ts';
import type { IoList } from '../../src/virtio/io-list.ts';
import type { FrontEndRing } from '../support/front-end.ts';

export interface HeapUse {
  /** Bytes that came and were not collected on the way; those that a collection left. */
  readonly allocated: number;
  readonly grown: number;
  readonly perSecond: number;
}

const inUse = () => getHeapSpaceStatistics().reduce((sum, space) => sum + space.space_used_size, 0);

/** @param requests made once, and sent again and again, all at a time */
export function heapLoad(
  loop: EventLoop,
  ring: FrontEndRing,
  requests: readonly { out: IoList; into: IoList }[],
): HeapUse {
  const run = (count: number) => {
    for (let sent = 0; sent < count; sent += requests.length) {
      for (const { out, into } of requests) {
        if (ring.driver.add(out, into, false) < 0) throw new Error('full');
      }
      if (ring.driver.publish()) ring.kick.signal();
      for (let done = 0; done < requests.length; ) {
        loop.turn(0);
        while (ring.driver.poll() >= 0) done++;
      }
      ring.call.drain();
    }
  };
  const collect = globalThis.gc;
  if (collect === undefined) throw new Error('run with --expose-gc');
  run(200_000); // warm up: code, feedback and slots are allocated too
  collect();
  collect();
  const before = inUse();
  const start = performance.now();
  run(1_000_000);
  const seconds = (performance.now() - start) / 1000;
  const allocated = inUse() - before;
  collect();
  collect();
  return { allocated, grown: inUse() - before, perSecond: Math.round(1e6 / seconds) };
}
