import type { ReservationStore } from '../scsi/reservation-store.ts';
import type { SaveRequest } from './commands.ts';

/** The reactor's end of {@link ReservationFiles}: saves go to the main thread, answers come back as commands. */

export class ReservationClient {
  private readonly send: (request: SaveRequest) => void;
  private readonly waiting = new Map<number, (ok: boolean) => void>();
  private nextId = 1;

  constructor(send: (request: SaveRequest) => void) {
    this.send = send;
  }

  /** @param uuid of the disk */
  storeOf(uuid: string): ReservationStore {
    return {
      save: (saved, sequence, done) => {
        const id = this.nextId++;
        this.waiting.set(id, done);
        this.send({ save: { id, uuid, saved, sequence } });
      },
    };
  }

  saved(id: number, ok: boolean): void {
    const done = this.waiting.get(id);
    this.waiting.delete(id);
    done?.(ok);
  }
}
