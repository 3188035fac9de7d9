import { adoptDma } from '../../pci/dma.ts';
import { EventFd } from '../../sys/eventfd.ts';
import { Fd } from '../../sys/fd.ts';
import type { BellShare } from './share.ts';

/** How a queue tells the device of new buffers, on this thread: a store, or an eventfd. After the ring was published. */
export function bellOf(bell: BellShare): () => void {
  if (bell.kind === 'eventfd') {
    const event = new EventFd(Fd.take(bell.fd));
    return () => event.signal();
  }
  const words = adoptDma(bell.window).u16;
  const at = bell.offset >> 1;
  const { value } = bell;
  // The avail index was published by Atomics.store, a full barrier: this store can't pass it.
  return () => {
    words[at] = value;
  };
}
