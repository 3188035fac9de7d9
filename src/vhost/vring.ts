/**
 * What the front end has said about one vring. Messages come in any order; the vring starts when all is known, and
 * not before. Its one rule: addresses are kept as the front end said them (its user addresses) and translated anew
 * at every start and every change of memory, so no stale place is ever used.
 */
import type { Window } from '../memory/guest-memory.ts';
import { DeviceRing, type DeviceRingOptions } from '../virtio/device-ring.ts';
import { availBytes, descBytes, usedBytes } from '../virtio/layout.ts';
import type { RingPart, RingPlace } from '../virtio/ring-place.ts';
import type { InflightQueue, InflightRegion } from './inflight.ts';
import type { MemoryTable } from './memory-table.ts';
import type { VringAddr } from './messages.ts';
import type { RunningRing } from './running-ring.ts';
import type { KickSource, Notifier } from './transport.ts';

/** How a vring can be asked to start. */
export interface StartOptions {
  readonly table: MemoryTable;
  readonly eventIdx: boolean;
  readonly indirect: boolean;
  readonly jumpIsIdle: boolean;
  readonly inflight: InflightRegion | null;
}

export class Vring {
  readonly index: number;
  /** Ring size; 0 while unknown. */
  num = 0;
  /** Next available index; -1 while unknown. */
  base = -1;
  addr: VringAddr | null = null;
  /** SET_VRING_KICK has come and GET_VRING_BASE has not: the front end wants the vring to run. */
  kick: KickSource | null = null;
  call: Notifier | null = null;
  err: Notifier | null = null;
  enabled = false;
  running: RunningRing | null = null;
  /** Why a start was refused with all known; null when nothing was. A later message may cure it. */
  problem: string | null = null;
  /** Times it broke or could not start, and the last reason: kept over restarts for the operator. */
  failures = 0;
  lastFailure: string | null = null;
  starts = 0;
  /** Heads a predecessor had taken and we took over at the last start. */
  recovered = 0;
  /** Where the running ring's requests are recorded. */
  inflight: InflightQueue | null = null;
  /** EVENT_IDX as negotiated at the last start: it sizes the parts. */
  eventIdx = false;

  constructor(index: number) {
    this.index = index;
  }

  /** All three parts at one address: some front ends park queues there that the guest never set up. */
  get parked(): boolean {
    const a = this.addr;
    return a !== null && a.desc === a.avail && a.avail === a.used;
  }

  /** The messages that are still missing for a start; empty when it may start. */
  waitsFor(memoryKnown: boolean): string[] {
    const missing: string[] = [];
    if (this.kick === null) missing.push('SET_VRING_KICK');
    if (this.num === 0) missing.push('SET_VRING_NUM');
    if (this.base < 0) missing.push('SET_VRING_BASE');
    if (this.addr === null) missing.push('SET_VRING_ADDR');
    else if (this.parked) missing.push('SET_VRING_ADDR with an address for each part');
    if (!memoryKnown) missing.push('SET_MEM_TABLE');
    return missing;
  }

  /** The places of the ring's parts in this table, or why there are none. */
  place(table: MemoryTable): RingPlace | string {
    const { addr, eventIdx } = this;
    if (addr === null) return 'the vring has no addresses';
    const bytes = {
      desc: descBytes(this.num),
      avail: availBytes(this.num, eventIdx),
      used: usedBytes(this.num, eventIdx),
    };
    const part = (name: keyof typeof bytes): RingPart | string => {
      const uva = addr[name];
      const size = bytes[name];
      const window: Window | undefined = Number.isSafeInteger(uva + size)
        ? table.guest.windowOfUser(uva, size)
        : undefined;
      if (window === undefined) return `${name}: ${size} bytes at 0x${uva.toString(16)} are not in the memory table`;
      return { memory: window.memory, offset: window.base + (uva - window.uva) };
    };
    const [desc, avail, used] = [part('desc'), part('avail'), part('used')];
    for (const p of [desc, avail, used]) if (typeof p === 'string') return p;
    return { desc, avail, used } as RingPlace;
  }

  /** Make the device half of the ring, with what a predecessor had in flight put first. Or why there is none. */
  makeRing(options: StartOptions): DeviceRing | string {
    const { table, eventIdx, indirect, jumpIsIdle } = options;
    this.eventIdx = eventIdx;
    const place = this.place(table);
    if (typeof place === 'string') return place;
    const ringOptions: DeviceRingOptions = {
      guest: table.guest,
      size: this.num,
      eventIdx,
      indirect,
      base: this.base,
      jumpIsIdle,
    };
    this.recovered = 0;
    this.inflight = null;
    if (options.inflight === null) return DeviceRing.create(place, ringOptions);
    const tracked = options.inflight.queue(this.index, this.num);
    if (typeof tracked === 'string') return tracked;
    return this.makeTracked(place, ringOptions, tracked);
  }

  private makeTracked(place: RingPlace, options: DeviceRingOptions, inflight: InflightQueue): DeviceRing | string {
    // Judge the place before anything is read from it: a ring made for the look is thrown away.
    const probe = DeviceRing.create(place, options);
    if (typeof probe === 'string') return probe;
    const usedIdx = probe.usedIndex;
    const heads = inflight.recover(usedIdx);
    if (typeof heads === 'string') return heads;
    // The front end knows the used index only, and perhaps that of a moment ago: a predecessor that was cut off from it, but not
    // dead yet, has gone on for a while. What was taken is what was given back, and what the log says beside.
    const base = inflight.fresh ? options.base : (usedIdx + heads.length) & 0xffff;
    const ring = DeviceRing.create(place, { ...options, base, inflight });
    if (typeof ring !== 'string') {
      ring.resubmit(heads);
      this.inflight = inflight;
      this.recovered = heads.length;
    }
    return ring;
  }

  /** The running ring has stopped; nothing of it is outstanding. */
  stopped(running: RunningRing): void {
    this.running = null;
    this.base = running.ring.resumeAt;
    this.dropKick();
    // Recovered requests that were not begun stay recorded: they are to be done by whoever runs the vring next.
    if (!running.abandoned && running.ring.recovering === 0) this.inflight?.clear();
    this.inflight = null;
  }

  fail(reason: string): void {
    this.failures++;
    this.lastFailure = reason;
  }

  /** Back to how a session begins, but for the notifiers: front ends send those once, before a reset. */
  reset(): void {
    this.num = 0;
    this.base = -1;
    this.addr = null;
    this.enabled = false;
    this.problem = null;
    this.dropKick();
  }

  dropKick(): void {
    this.kick?.close();
    this.kick = null;
  }

  /** The session is over. */
  close(): void {
    this.dropKick();
    this.call?.close();
    this.err?.close();
    this.call = this.err = null;
  }

  describe(memoryKnown: boolean): Record<string, unknown> {
    const running = this.running;
    const waits = this.waitsFor(memoryKnown);
    const broken = running?.ring.broken ?? this.problem;
    const idle = this.kick === null ? 'stopped' : 'waiting';
    const state = broken !== null ? 'broken' : running !== null ? 'running' : idle;
    return {
      index: this.index,
      state,
      enabled: this.enabled,
      ...(running === null ? { size: this.num, next_avail: this.base, waits_for: waits } : running.ring.dump()),
      ...(running === null ? {} : { outstanding: running.outstanding, polled: !running.kick.notifies }),
      ...(broken === null ? {} : { broken }),
      ...(this.recovered > 0 ? { recovered: this.recovered } : {}),
      starts: this.starts,
      failures: this.failures,
      last_failure: this.lastFailure,
    };
  }
}
