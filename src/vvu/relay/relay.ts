import { randomBytes } from 'node:crypto';
import type { EventLoop, Timer, Watch } from '../../sys/event-loop.ts';
import { closeAll, type Fd } from '../../sys/fd.ts';
import { logger } from '../../sys/log.ts';
import { accept, type Listener, listenUnix } from '../../sys/socket.ts';
import { FLAG_VERSION_MASK, HEADER_BYTES } from '../../vhost/messages.ts';
import { Session } from '../../vhost/session.ts';
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
import { ApplianceTransport } from './appliance-transport.ts';
import { type ArrivedTable, ComputeLink } from './compute-link.ts';
import { RelayModel } from './relay-model.ts';
import { filePieces, type Mapping, WindowMap } from './window-map.ts';

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
/** How long the driver has to let go of memory when the relay ends, ms. */
const PARTING_MS = 2000;

/** A table on its way: the driver is asked, then its files are mapped, then it goes on. */
interface ComingTable {
  readonly table: ArrivedTable;
  readonly link: ComputeLink;
  readonly generation: number;
}

export class Relay {
  private readonly options: RelayOptions;
  private readonly loop: EventLoop;
  private readonly identity = randomBytes(16);
  private readonly listeners: Listener[] = [];
  private readonly watches: Watch[] = [];
  private appliance: { session: Session; transport: ApplianceTransport; model: RelayModel } | null = null;
  private compute: ComputeLink | null = null;
  /** The driver has said HELLO and not GOODBYE. */
  private driver = false;
  /** A LINK_DOWN that the driver has not confirmed. */
  private unconfirmed = false;
  private readonly window: WindowMap;
  private generation = 0;
  private coming: ComingTable | null = null;
  private holding = false;
  private parting: { done: () => void; timer: Timer } | null = null;
  /** For tests and the log. */
  readonly counters = { hellos: 0, faults: 0, maps: 0, unmaps: 0, kicks: 0, calls: 0 };

  /** @throws SysError when a socket can't be had */
  constructor(options: RelayOptions) {
    this.options = options;
    this.loop = options.loop;
    this.window = new WindowMap(options.windowBytes);
    try {
      this.listen(options.appliance, (listener) => this.applianceCalls(listener));
      this.listen(options.compute, (listener) => this.computeCalls(listener));
    } catch (error) {
      for (const listener of this.listeners) listener.close();
      throw error;
    }
  }

  private listen(path: string, called: (listener: Listener) => void): void {
    const listener = listenUnix(path, this.options.mode);
    this.listeners.push(listener);
    this.watches.push(this.loop.watch(listener.fd.number, () => called(listener)));
  }

  private tell(line: string): void {
    log(line);
    this.options.tell?.(line);
  }

  // The appliance's side.

  private applianceCalls(listener: Listener): void {
    const fd = accept(listener.fd);
    if (fd === undefined) return;
    if (this.appliance !== null) {
      fd.close();
      this.tell('a second appliance was turned away: one relay serves one device');
      return;
    }
    const { loop } = this;
    const transport = new ApplianceTransport(loop, fd, listener.path, this.options.windowBytes, {
      rung: (vring) => {
        this.counters.calls++;
        this.compute?.ring(vring);
      },
      startedChanged: (started) => {
        if (!started) this.deviceStopped();
      },
    });
    const model = new RelayModel(this.options.vrings, {
      fromDriver: (message) => this.fromDriver(message),
      taken: () => this.roomAgain(),
      stopped: () => this.deviceStopped(),
    });
    const session = new Session({
      loop,
      transport,
      model,
      onClosed: (s) => {
        this.deviceStopped();
        this.appliance = null;
        this.tell(`the appliance's QEMU has gone: ${s.ended}`);
      },
    });
    this.appliance = { session, transport, model };
    this.tell("the appliance's QEMU is connected");
    session.open();
  }

  /** The driver's queues are stopped (a reset, or the end): what it had is gone, and QEMU has dropped all mappings. */
  private deviceStopped(): void {
    this.window.clear();
    this.driverGone('the driver in the appliance has gone');
  }

  private driverGone(reason: string): void {
    if (this.appliance !== null) this.appliance.model.outbox.length = 0;
    if (!this.driver) return;
    this.driver = false;
    this.unconfirmed = false;
    this.dropTable();
    this.tell(reason);
    this.compute?.close(reason);
  }

  private send(message: Uint8Array): void {
    const { model } = this.appliance ?? {};
    if (model === undefined || !this.driver) return;
    model.outbox.push(message);
    if (model.outbox.length >= OUTBOX_FULL && !this.holding && this.compute !== null) {
      this.holding = true;
      this.compute.hold();
    }
    this.rouse();
  }

  /** There is something for rxq: a session that dozes looks at its queues again. */
  private rouse(): void {
    if (this.appliance !== null) this.loop.rouse(this.appliance.session);
  }

  private roomAgain(): void {
    if (!this.holding || (this.appliance?.model.outbox.length ?? 0) >= OUTBOX_FULL / 2) return;
    this.holding = false;
    this.compute?.release();
  }

  private fromDriver(message: Uint8Array): void {
    const v = new DataView(message.buffer, message.byteOffset, message.byteLength);
    const size = message.length < HEADER_BYTES ? -1 : v.getUint32(8, true);
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
        this.appliance?.model.outbox.push(controlMessage(Control.PONG));
        this.rouse();
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
        this.granted(u32Of(payload));
        return;
      case Control.MEMORY_RELEASED:
        this.released(u32Of(payload));
        return;
      default:
        this.fault(`${controlName(id)}, which is the relay's to send`);
        return;
    }
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
    this.linkUp();
  }

  private goodbye(): void {
    this.driverGone('the driver in the appliance said goodbye');
    const farewell = (): void => {
      const channel = this.appliance?.transport.channel;
      // What was asked of QEMU before is answered first: after FAREWELL the device may be reset at any moment.
      if (channel !== null && channel !== undefined && !channel.idle) return void this.loop.after(1, farewell);
      this.appliance?.model.outbox.push(controlMessage(Control.FAREWELL));
      this.rouse();
    };
    farewell();
  }

  // The compute VM's side.

  private computeCalls(listener: Listener): void {
    if (this.compute !== null) return; // the next one waits in the socket's queue
    const fd = accept(listener.fd);
    if (fd === undefined) return;
    const link: ComputeLink = new ComputeLink(this.loop, fd, listener.path, this.options.vrings, {
      toDriver: (message) => this.send(message),
      tableArrived: (table) => this.tableArrived(link, table),
      kicked: (vring) => {
        this.counters.kicks++;
        this.appliance?.transport.kick(vring);
      },
      ended: (reason) => this.computeEnded(link, reason),
    });
    this.compute = link;
    this.tell('a compute VM is connected');
    // Nobody else is let in meanwhile: a level-triggered watch would turn in circles.
    this.watches[1]?.modify(0);
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
    const wasOpen = link.wasOpened;
    this.compute = null;
    this.holding = false;
    this.dropTable();
    this.tell(`the compute VM is gone: ${reason}`);
    if (wasOpen && this.driver) {
      this.unconfirmed = true;
      this.send(textMessage(Control.LINK_DOWN, reason));
    }
    if (this.parting === null) this.watches[1]?.modify(1);
  }

  // Memory.

  private tableArrived(link: ComputeLink, table: ArrivedTable): void {
    this.generation = (this.generation + 1) >>> 0;
    this.coming = { table, link, generation: this.generation };
    this.send(u32Message(Control.MAP_REQUEST, this.generation));
  }

  private dropTable(): void {
    if (this.coming !== null) closeAll(this.coming.table.fds);
    this.coming = null;
  }

  /** The driver is alive: now, and only now, the appliance's QEMU is asked. */
  private granted(generation: number): void {
    const coming = this.coming;
    if (coming === null || coming.generation !== generation) return;
    const found = filePieces(coming.table.regions, coming.table.fds);
    if (typeof found === 'string') {
      this.refuseTable(coming, found);
      return;
    }
    const mappings: Mapping[] = [];
    let left = 1;
    let failure: string | null = null;
    const done = (): void => {
      if (--left > 0) return;
      if (failure === null) this.mapped(coming, found.of, mappings);
      else this.refuseTable(coming, failure);
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
      if (known !== undefined) continue;
      left++;
      this.map(mapping, piece.fd.duplicate(), (error) => {
        failure ??= error;
        done();
      });
    }
    done();
  }

  private map(mapping: Mapping, fd: Fd, done: (error: string | null) => void): void {
    const { transport } = this.appliance ?? {};
    const channel = transport?.channel ?? null;
    if (transport?.started !== true || channel === null) {
      fd.close();
      this.window.remove(mapping);
      done('the device in the appliance is not started');
      return;
    }
    this.counters.maps++;
    channel.map(fd, mapping.fileOffset, mapping, (error) => {
      if (error === null) mapping.state = 'mapped';
      else this.window.remove(mapping);
      done(error);
      if (error === null && mapping.users.size === 0) this.unmap(mapping);
    });
  }

  private mapped(coming: ComingTable, of: readonly number[], mappings: readonly Mapping[]): void {
    if (this.coming !== coming) {
      this.unuse(coming.generation); // that compute VM has gone meanwhile
      return;
    }
    this.coming = null;
    const { table, generation, link } = coming;
    closeAll(table.fds);
    const v = new DataView(table.message.buffer);
    v.setUint32(HEADER_BYTES + 4, generation, true);
    for (const [i, region] of table.regions.entries()) {
      const mapping = mappings[of[i]];
      // For the driver "mmap_offset" is where the region lies in the window.
      v.setBigUint64(HEADER_BYTES + 8 + 32 * i + 24, BigInt(mapping.at + region.offset - mapping.fileOffset), true);
    }
    link.tableDone(table.message);
  }

  private refuseTable(coming: ComingTable, reason: string): void {
    this.unuse(coming.generation);
    if (this.coming !== coming) return;
    this.dropTable();
    this.tell(`memory of the compute VM refused: ${reason}`);
    coming.link.refuseTable(reason);
  }

  private released(generation: number): void {
    this.unuse(generation);
    if (this.parting !== null && this.window.mappings.length === 0) this.part();
  }

  private unuse(generation: number): void {
    for (const mapping of this.window.release(generation)) this.unmap(mapping);
  }

  private unmap(mapping: Mapping): void {
    const { transport } = this.appliance ?? {};
    const channel = transport?.channel ?? null;
    mapping.state = 'unmapping';
    if (transport?.started !== true || channel === null) {
      this.window.remove(mapping);
      return;
    }
    this.counters.unmaps++;
    channel.unmap(mapping, (error) => {
      if (error !== null) this.tell(`unmapping: ${error}`);
      this.window.remove(mapping);
      if (this.parting !== null && this.window.mappings.length === 0) this.part();
    });
  }

  /** End: hang up on the compute VM, let the driver give the memory back, then go. */
  close(then: () => void = () => {}): void {
    if (this.parting !== null) return;
    this.parting = { done: then, timer: this.loop.after(PARTING_MS, () => this.part()) };
    for (const watch of this.watches) watch.close();
    for (const listener of this.listeners) listener.close();
    this.compute?.close('the relay ends');
    if (!this.driver || this.window.mappings.length === 0) this.part();
  }

  private part(): void {
    const { parting } = this;
    if (parting === null) return;
    parting.timer.cancel();
    const { done } = parting;
    this.parting = { ...parting, done: () => {} };
    this.driver = false;
    this.appliance?.session.end('the relay ends');
    this.loop.defer(done);
  }

  describe(): Record<string, unknown> {
    return {
      appliance: this.appliance === null ? 'absent' : this.driver ? 'driver ready' : 'no driver',
      compute: this.compute === null ? 'absent' : this.compute.isOpen ? 'linked' : 'waiting',
      generation: this.generation,
      mappings: this.window.mappings.map(({ at, bytes, state, users }) => ({ at, bytes, state, users: [...users] })),
      ...this.counters,
      session: this.appliance?.session.describe() ?? null,
    };
  }
}
