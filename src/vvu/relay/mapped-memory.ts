import { closeAll, type Fd } from '../../sys/fd.ts';
import type { ShmemChannel } from './shmem-channel.ts';
import { type FileRange, filePieces, type Mapping, WindowMap } from './window-map.ts';

/**
 * The compute VM's files on their way into the appliance's window: the driver is asked, then the files are mapped, then the
 * message that brought them goes on; and what the driver has let go of is unmapped. Its rule: the appliance's QEMU is asked only
 * right after the driver has said something, because it does not survive to be asked while the device is stopped.
 */

const UNSEALED =
  'the memory of the compute VM is a file that its owner can shorten, and end the appliance by it: memory-backend-memfd does not allow that';

/** Files that must be in the window before the message that brought them may go on. */
export interface Arrival {
  readonly ranges: readonly FileRange[];
  /** One a range; owned by whoever takes the arrival. */
  readonly fds: readonly Fd[];
  /** They are there. @param places where each range lies in the window @param generation to be released by the driver */
  placed(generation: number, places: readonly number[]): void;
  refused(reason: string): void;
}

export interface MappedMemoryOptions {
  /** Bytes of the window. */
  readonly bytes: number;
  /** To the appliance's QEMU; null while the device is not started. */
  readonly channel: () => ShmemChannel | null;
  /** Ask the driver whether memory may be mapped now. */
  readonly ask: (generation: number) => void;
  /** Nothing is mapped any more. */
  readonly emptied: () => void;
  readonly tell: (line: string) => void;
}

export class MappedMemory {
  /** Of the last arrival. */
  generation = 0;
  maps = 0;
  unmaps = 0;
  private readonly options: MappedMemoryOptions;
  private readonly window: WindowMap;
  private coming: { arrival: Arrival; generation: number } | null = null;

  constructor(options: MappedMemoryOptions) {
    this.options = options;
    this.window = new WindowMap(options.bytes);
  }

  /** One at a time: the compute VM's link is held meanwhile. */
  arrive(arrival: Arrival): void {
    this.drop();
    this.generation = (this.generation + 1) >>> 0;
    this.coming = { arrival, generation: this.generation };
    this.options.ask(this.generation);
  }

  /** Nobody waits for what is on its way. */
  drop(): void {
    if (this.coming !== null) closeAll(this.coming.arrival.fds);
    this.coming = null;
  }

  /** The device was stopped: QEMU has dropped all mappings by itself. */
  deviceStopped(): void {
    this.window.clear();
  }

  /** The driver is alive: now, and only now, QEMU is asked. */
  granted(generation: number): void {
    const { coming } = this;
    if (coming === null || coming.generation !== generation) return;
    const { arrival } = coming;
    const found = filePieces(arrival.ranges, arrival.fds);
    if (typeof found === 'string') {
      this.refuse(coming, found);
      return;
    }
    const mappings: Mapping[] = [];
    let left = 1;
    let failure: string | null = null;
    const done = (): void => {
      if (--left > 0) return;
      if (failure === null) this.placed(coming, found.of, mappings);
      else this.refuse(coming, failure);
    };
    for (const piece of found.pieces) {
      const known = this.window.find(piece.key);
      const mapping = known ?? this.window.place(piece);
      if (typeof mapping === 'string') {
        failure = mapping;
        break;
      }
      mappings.push(mapping);
      mapping.users.add(generation);
      if (mapping.state === 'mapped') continue;
      left++;
      mapping.waiting.push((error) => {
        failure ??= error;
        done();
      });
      if (known !== undefined) continue;
      if (!piece.sealed) this.options.tell(UNSEALED);
      this.map(mapping, piece.fd.duplicate());
    }
    done();
  }

  private map(mapping: Mapping, fd: Fd): void {
    const answered = (error: string | null): void => {
      if (error === null) mapping.state = 'mapped';
      else this.window.remove(mapping);
      for (const told of mapping.waiting.splice(0)) told(error);
      // Of a device that was stopped meanwhile QEMU has dropped it, and something else may lie there now.
      if (mapping.users.size === 0 && mapping.state === 'mapped' && this.window.has(mapping)) this.unmap(mapping);
    };
    const channel = this.options.channel();
    if (channel === null) {
      fd.close();
      answered('the device in the appliance is not started');
      return;
    }
    this.maps++;
    channel.map(fd, mapping.fileOffset, mapping, answered);
  }

  private placed(coming: { arrival: Arrival; generation: number }, of: readonly number[], mappings: Mapping[]): void {
    const { arrival, generation } = coming;
    if (this.coming !== coming) {
      this.unuse(generation); // whoever brought it has gone meanwhile
      return;
    }
    this.coming = null;
    closeAll(arrival.fds);
    const places = arrival.ranges.map(({ offset }, i) => mappings[of[i]].at + offset - mappings[of[i]].fileOffset);
    arrival.placed(generation, places);
  }

  private refuse(coming: { arrival: Arrival; generation: number }, reason: string): void {
    this.unuse(coming.generation);
    if (this.coming !== coming) return;
    this.drop();
    this.options.tell(`memory of the compute VM refused: ${reason}`);
    coming.arrival.refused(reason);
  }

  /** The driver has let go of a generation. */
  released(generation: number): void {
    this.unuse(generation);
    if (this.empty) this.options.emptied();
  }

  get empty(): boolean {
    return this.window.mappings.length === 0;
  }

  private unuse(generation: number): void {
    for (const mapping of this.window.release(generation)) this.unmap(mapping);
  }

  private unmap(mapping: Mapping): void {
    const channel = this.options.channel();
    mapping.state = 'unmapping';
    if (channel === null) {
      this.window.remove(mapping);
      return;
    }
    this.unmaps++;
    channel.unmap(mapping, (error) => {
      if (error !== null) this.options.tell(`unmapping: ${error}`);
      this.window.remove(mapping);
      if (this.empty) this.options.emptied();
    });
  }

  describe(): Record<string, unknown>[] {
    return this.window.mappings.map(({ at, bytes, state, users }) => ({ at, bytes, state, users: [...users] }));
  }
}
