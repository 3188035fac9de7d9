import type { EventLoop, Timer } from '../../sys/event-loop.ts';
import { logger } from '../../sys/log.ts';
import { HEADER_BYTES, Request } from '../../vhost/messages.ts';
import {
  Control,
  controlMessage,
  isControl,
  parseWelcome,
  textMessage,
  textOf,
  u32Message,
  u32Of,
  WIRE_VERSION,
} from '../control-messages.ts';
import type { Link, LinkEvents } from './link.ts';

const log = logger('vvu');

/**
 * The link through `vvu-target relay`: control messages among the vhost-user messages, so that their order says what belongs to
 * which front end. The relay may map memory only while this driver is alive to answer, and unmaps only what this
 * driver has let go.
 */

/** Messages whose memory the relay has mapped: where in the payload the generation stands. */
const GENERATION_AT: ReadonlyMap<number, number> = new Map([
  [Request.SET_MEM_TABLE, 4],
  [Request.SET_INFLIGHT_FD, 20],
]);
/** How often the relay is asked whether it lives, ms; unanswered for as long, it is dead. */
const PING_MS = 5000;
const NOBODY = 'no compute VM is connected to the relay';
/** How long a GOODBYE may take, ms. */
const FAREWELL_MS = 3000;

export interface RelayLinkOptions {
  readonly loop: EventLoop;
  readonly events: LinkEvents;
  readonly send: (message: Uint8Array) => void;
}

export class RelayLink implements Link {
  up = false;
  hint: string | null = 'the relay has not answered yet';
  private readonly loop: EventLoop;
  private readonly events: LinkEvents;
  private readonly send: (message: Uint8Array) => void;
  private welcomed = false;
  private answered = true;
  /** It did not answer, and that was said. */
  private silent = false;
  private timer: Timer | null = null;
  private ending: (() => void) | null = null;
  /** Generation of the memory that is being delivered, until somebody takes it; -1: none. */
  private arriving = -1;
  /** Of each generation: mappings in use. */
  private readonly users = new Map<number, number>();

  constructor(options: RelayLinkOptions) {
    this.loop = options.loop;
    this.events = options.events;
    this.send = options.send;
  }

  begin(): void {
    this.up = false;
    this.welcomed = false;
    this.send(u32Message(Control.HELLO, WIRE_VERSION));
    this.answered = true;
    this.timer?.cancel();
    this.ping();
  }

  private readonly ping = (): void => {
    if (this.ending !== null) return;
    if (!this.answered) {
      const known = this.silent;
      this.silent = true;
      this.hint =
        'the relay does not answer: it has died or is stopped. Do not restart this target or rescan the device: that would end ' +
        "the appliance's QEMU. Save what is to be saved and restart the appliance VM";
      if (!known) log.warn(this.hint);
      if (this.up) {
        // The compute VM may be served by others by now: its rings are not ours any more. Should the relay only have been
        // stopped for a while, it hangs up on the compute VM, which comes back then.
        this.hangUp('the relay did not answer');
        this.events.linkDown('the relay does not answer');
      }
    } else if (this.silent) {
      this.silent = false;
      this.hint = NOBODY;
      log.warn('the relay answers again');
    }
    if (this.answered) {
      this.answered = false;
      this.send(controlMessage(Control.PING));
    }
    this.timer = this.loop.after(PING_MS, this.ping);
  };

  check(): void {}

  intercept(message: Uint8Array): boolean {
    const v = new DataView(message.buffer, message.byteOffset, message.byteLength);
    const id = v.getUint32(0, true);
    if (!isControl(id)) {
      const at = GENERATION_AT.get(id) ?? message.length;
      this.arriving = message.length >= HEADER_BYTES + at + 4 ? v.getUint32(HEADER_BYTES + at, true) : -1;
      return false;
    }
    this.answered = true;
    this.control(id, message.subarray(HEADER_BYTES));
    return true;
  }

  private control(id: number, payload: Uint8Array): void {
    switch (id) {
      case Control.WELCOME:
        this.welcome(payload);
        break;
      case Control.LINK_UP:
        if (!this.welcomed || this.up) break;
        this.up = true;
        this.hint = null;
        this.events.linkUp();
        break;
      case Control.LINK_DOWN:
        if (this.up) {
          this.up = false;
          this.events.linkDown(textOf(payload));
        }
        this.hint = NOBODY;
        this.send(controlMessage(Control.LINK_ENDED));
        break;
      case Control.MAP_REQUEST:
        this.send(u32Message(Control.MAP_GRANT, Math.max(0, u32Of(payload))));
        break;
      case Control.FAREWELL:
        this.farewell();
        break;
      default:
        break;
    }
  }

  private welcome(payload: Uint8Array): void {
    const welcome = parseWelcome(payload);
    if (welcome === undefined || welcome.version !== WIRE_VERSION) {
      this.hint = `the relay speaks version ${welcome?.version} of the wire, this driver ${WIRE_VERSION}: use the same release for both`;
      log.warn(this.hint);
      return;
    }
    log('relay %s: %d vrings, window of %d bytes', welcome.identity, welcome.vrings, welcome.windowBytes);
    this.welcomed = true;
    this.hint = NOBODY;
  }

  // Memory.

  /** The mappings of what is being delivered are made now; they count until `released`. */
  takeGeneration(mappings: number): number {
    const generation = this.arriving;
    this.arriving = -1;
    this.users.set(generation, mappings);
    if (mappings === 0) this.giveBack(generation);
    return generation;
  }

  released(generation: number): void {
    const left = (this.users.get(generation) ?? 1) - 1;
    this.users.set(generation, left);
    if (left === 0) this.giveBack(generation);
  }

  private giveBack(generation: number): void {
    this.users.delete(generation);
    if (generation >= 0) this.send(u32Message(Control.MEMORY_RELEASED, generation));
  }

  /** The message has been handled; a table that nobody took was refused. */
  messageDone(): void {
    if (this.arriving >= 0) this.giveBack(this.arriving);
    this.arriving = -1;
  }

  hangUp(reason: string): void {
    if (!this.up) return;
    this.up = false;
    this.send(textMessage(Control.LINK_CLOSE, reason));
  }

  end(then: () => void): void {
    this.timer?.cancel();
    this.ending = then;
    this.up = false;
    this.send(controlMessage(Control.GOODBYE));
    this.timer = this.loop.after(FAREWELL_MS, () => this.farewell());
  }

  private farewell(): void {
    const then = this.ending;
    if (then === null) return;
    this.timer?.cancel();
    this.ending = null;
    then();
  }
}
