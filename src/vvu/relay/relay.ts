import { randomBytes } from 'node:crypto';
import type { EventLoop, Timer } from '../../sys/event-loop.ts';
import type { Fd } from '../../sys/fd.ts';
import { logger } from '../../sys/log.ts';
import { FLAG_VERSION_MASK, HEADER_BYTES } from '../../vhost/messages.ts';
import {
  Control,
  controlMessage,
  controlName,
  isControl,
  textMessage,
  textOf,
  u32Message,
  u32Of,
  WIRE_VERSION,
  welcomeMessage,
} from '../control-messages.ts';
import { ApplianceSide } from './appliance-side.ts';
import { ComputeGate } from './compute-gate.ts';
import { ComputeLink } from './compute-link.ts';
import { MappedMemory } from './mapped-memory.ts';

const log = logger('relay');

/**
 * The host half that gives an appliance VM under a stock QEMU a vvu device: back end of the compute VM on one side, back end of a
 * `vhost-user-test-device-pci` on the other. Small on purpose: the appliance's QEMU does not survive the relay's
 * death for long. Its one rule: whatever either side sends, the worst that follows is the end of that side's session.
 */
export interface RelayOptions {
  readonly loop: EventLoop;
  /** Socket that the compute VM's QEMU connects to. */
  readonly compute: string;
  /** Socket that the appliance's QEMU connects to. */
  readonly appliance: string;
  /** Vrings that the device carries: its QEMU argument num_vqs less 2. */
  readonly vrings: number;
  /** Bytes of the memory window, a power of two. */
  readonly windowBytes: number;
  /** Permission bits of the socket files. */
  readonly mode?: number;
  /** What an operator should see. */
  readonly tell?: (line: string) => void;
}

/** Messages that may wait for the driver before the compute VM has to wait, too. */
const OUTBOX_FULL = 16;
/** Messages that may wait in all: of a compute VM that is held there are no more, so a driver has asked for the rest. */
const OUTBOX_LIMIT = 256;
/** How long the driver has to let go of memory when the relay ends, ms. */
const PARTING_MS = 2000;

export class Relay {
  private readonly options: RelayOptions;
  private readonly loop: EventLoop;
  private readonly identity = randomBytes(16);
  private readonly appliance: ApplianceSide;
  private readonly gate: ComputeGate;
  private readonly memory: MappedMemory;
  private compute: ComputeLink | null = null;
  /** The driver has said HELLO and not GOODBYE. */
  private driver = false;
  /** A LINK_DOWN that the driver has not confirmed. */
  private unconfirmed = false;
  private holding = false;
  private parting: { done: () => void; timer: Timer } | null = null;
  /** For tests and the log. */
  readonly counters = { hellos: 0, faults: 0, kicks: 0, calls: 0 };

  /** @throws SysError when a socket can't be had */
  constructor(options: RelayOptions) {
    const { loop, mode, windowBytes } = options;
    this.options = options;
    this.loop = loop;
    const tell = (line: string) => this.tell(line);
    this.memory = new MappedMemory({
      bytes: windowBytes,
      channel: () => this.appliance.channel,
      ask: (generation) => this.send(u32Message(Control.MAP_REQUEST, generation)),
      emptied: () => {
        if (this.parting !== null) this.part();
      },
      tell,
    });
    this.appliance = new ApplianceSide({
      loop,
      path: options.appliance,
      mode,
      vrings: options.vrings,
      windowBytes,
      fromDriver: (message) => this.fromDriver(message),
      taken: () => this.roomAgain(),
      rung: (vring) => {
        this.counters.calls++;
        this.compute?.ring(vring);
      },
      stopped: () => {
        this.memory.deviceStopped();
        this.driverGone('the driver in the appliance has gone');
      },
      tell,
    });
    try {
      this.gate = new ComputeGate({ loop, path: options.compute, mode, entered: (fd) => this.computeCame(fd), tell });
    } catch (error) {
      this.appliance.shut();
      throw error;
    }
  }

  private tell(line: string): void {
    log(line);
    this.options.tell?.(line);
  }

  // The driver in the appliance.

  private driverGone(reason: string): void {
    this.appliance.forgetWaiting();
    if (!this.driver) return;
    this.driver = false;
    this.unconfirmed = false;
    this.memory.drop();
    this.tell(reason);
    this.gate.shut();
    this.compute?.close(reason);
  }

  private send(message: Uint8Array): void {
    if (!this.driver) return;
    this.appliance.send(message);
    if (this.appliance.waiting >= OUTBOX_FULL && !this.holding && this.compute !== null) {
      this.holding = true;
      this.compute.hold();
    }
  }

  private roomAgain(): void {
    if (!this.holding || this.appliance.waiting >= OUTBOX_FULL / 2) return;
    this.holding = false;
    this.compute?.release();
  }

  private fromDriver(message: Uint8Array): void {
    const v = new DataView(message.buffer, message.byteOffset, message.byteLength);
    const size = message.length < HEADER_BYTES ? Number.NaN : v.getUint32(8, true);
    if (message.length !== HEADER_BYTES + size || (v.getUint32(4, true) & FLAG_VERSION_MASK) !== 1) {
      this.fault(`a message of ${message.length} bytes that is none`);
      return;
    }
    const id = v.getUint32(0, true);
    if (isControl(id)) {
      this.control(id, message.subarray(HEADER_BYTES));
      return;
    }
    if (!this.driver || this.unconfirmed || this.compute === null) return; // for a compute VM that has gone
    const error = this.compute.answer(message);
    if (error !== null) this.fault(error);
  }

  /** The driver does not keep to the contract: it is out until it says HELLO again. */
  private fault(what: string): void {
    this.counters.faults++;
    this.driverGone(`the driver in the appliance sent ${what}`);
  }

  private control(id: number, payload: Uint8Array): void {
    if (!this.driver && id !== Control.HELLO && id !== Control.GOODBYE && id !== Control.PING) return;
    switch (id) {
      case Control.HELLO:
        this.hello(u32Of(payload));
        return;
      case Control.PING:
        this.answer(controlMessage(Control.PONG));
        return;
      case Control.GOODBYE:
        this.goodbye();
        return;
      case Control.LINK_ENDED:
        this.unconfirmed = false;
        this.linkUp();
        return;
      case Control.LINK_CLOSE:
        if (this.compute?.isOpen === true) this.compute.close(`the target hung up: ${textOf(payload)}`);
        return;
      case Control.MAP_GRANT:
        this.memory.granted(u32Of(payload));
        return;
      case Control.MEMORY_RELEASED:
        this.memory.released(u32Of(payload));
        return;
      default:
        this.fault(`${controlName(id)}, which is the relay's to send`);
        return;
    }
  }

  /** To a driver that asks, whether or not it has said HELLO. One that asks and never reads gets no more. */
  private answer(message: Uint8Array): void {
    if (this.appliance.waiting < OUTBOX_LIMIT) this.appliance.send(message);
  }

  private hello(version: number): void {
    this.driverGone('the driver in the appliance began anew');
    this.counters.hellos++;
    this.driver = true;
    this.send(welcomeMessage(this.options.vrings, this.options.windowBytes, this.identity));
    if (version !== WIRE_VERSION) {
      this.fault(`version ${version} of the wire; this relay speaks ${WIRE_VERSION}`);
      return;
    }
    this.tell('the driver in the appliance is there');
    if (this.parting === null) this.gate.open();
    this.linkUp();
  }

  private goodbye(): void {
    this.driverGone('the driver in the appliance said goodbye');
    const farewell = (): void => {
      // What was asked of QEMU before is answered first: after FAREWELL the device may be reset at any moment.
      if (this.appliance.mapping) this.loop.after(1, farewell);
      else this.answer(controlMessage(Control.FAREWELL));
    };
    farewell();
  }

  // The compute VM.

  private computeCame(fd: Fd): void {
    const link: ComputeLink = new ComputeLink(this.loop, fd, this.options.compute, this.options.vrings, {
      toDriver: (message) => this.send(message),
      filesArrived: (arrival) => this.memory.arrive(arrival),
      kicked: (vring) => {
        this.counters.kicks++;
        this.appliance.kick(vring);
      },
      ended: (reason) => this.computeEnded(link, reason),
    });
    this.compute = link;
    this.tell('a compute VM is connected');
    this.linkUp();
  }

  private linkUp(): void {
    const { compute } = this;
    if (compute === null || compute.isOpen || !this.driver || this.unconfirmed || this.parting !== null) return;
    this.send(controlMessage(Control.LINK_UP));
    compute.open();
  }

  private computeEnded(link: ComputeLink, reason: string): void {
    if (this.compute !== link) return;
    this.compute = null;
    this.holding = false;
    this.memory.drop();
    this.tell(`the compute VM is gone: ${reason}`);
    if (link.wasOpened && this.driver) {
      this.unconfirmed = true;
      this.send(textMessage(Control.LINK_DOWN, reason));
    }
    this.gate.left();
  }

  /** End: hang up on the compute VM, let the driver give the memory back, then go. */
  close(then: () => void = () => {}): void {
    if (this.parting !== null) return;
    this.parting = { done: then, timer: this.loop.after(PARTING_MS, () => this.part()) };
    this.appliance.shut();
    this.gate.shut();
    this.compute?.close('the relay ends');
    if (!this.driver || this.memory.empty) this.part();
  }

  private part(): void {
    const { parting } = this;
    if (parting === null) return;
    parting.timer.cancel();
    const { done } = parting;
    this.parting = { ...parting, done: () => {} };
    this.driver = false;
    this.appliance.end('the relay ends');
    this.loop.defer(done);
  }

  describe(): Record<string, unknown> {
    return {
      appliance: !this.appliance.connected ? 'absent' : this.driver ? 'driver ready' : 'no driver',
      compute: this.compute === null ? 'absent' : this.compute.isOpen ? 'linked' : 'waiting',
      generation: this.memory.generation,
      mappings: this.memory.describe(),
      ...this.counters,
      maps: this.memory.maps,
      unmaps: this.memory.unmaps,
      session: this.appliance.describe(),
    };
  }
}
