/**
 * A virtual machine as a target sees it, for targets that run on other threads or in other processes: memory, a front
 * end, and a guest's SCSI driver, started as Linux starts it.
 */
import { EventLoop } from '../../src/sys/event-loop.ts';
import { FrontEnd, type FrontEndOptions, LINUX_FEATURES } from './front-end.ts';
import { SharedGuest } from './front-end-memory.ts';
import { ScsiDriver } from './front-end-scsi.ts';

export interface Guest {
  readonly frontEnd: FrontEnd;
  readonly scsi: ScsiDriver;
  readonly guest: SharedGuest;
  close(): void;
}

/** @param path of the controller's socket */
export function connectGuest(path: string, options: Partial<FrontEndOptions> = {}): Guest {
  // Nobody's loop: the target turns its own, and waiting here turns this one.
  const loop = new EventLoop();
  const guest = new SharedGuest();
  const frontEnd = new FrontEnd({ loop, guest, path, queues: 4, ...options });
  frontEnd.init();
  frontEnd.makeRings(
    Array.from({ length: frontEnd.queues }, (_, i) => i),
    LINUX_FEATURES,
  );
  frontEnd.start();
  const scsi = new ScsiDriver(frontEnd);
  scsi.giveEventBuffers(8);
  return {
    frontEnd,
    scsi,
    guest,
    close: () => {
      frontEnd.close();
      guest.close();
      loop.close();
    },
  };
}

export const INQUIRY = [0x12, 0, 0, 0, 96, 0];
export const TEST_UNIT_READY = [0, 0, 0, 0, 0, 0];
export const READ_CAPACITY_10 = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0];
