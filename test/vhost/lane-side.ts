/**
 * One of two controllers that are given the same requests over a transport without descriptors: on one of them the disk tells where its blocks
 * lie, on the other it does not, so that all go the whole way. The memory under the vring may be exchanged meanwhile.
 */
import type { BdevChannel, BdevInfo, BdevIo, DirectAccess } from '../../src/bdev/bdev.ts';
import { createMallocBdev, type MallocBdev } from '../../src/bdev/malloc-bdev.ts';
import { openMallocChannel } from '../../src/bdev/malloc-channel.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import type { DeviceModel } from '../../src/vhost/device-model.ts';
import { ProtocolFeature } from '../../src/vhost/messages.ts';
import { Session } from '../../src/vhost/session.ts';
import { DriverRing, tablesBytes } from '../../src/virtio/driver-ring.ts';
import { IoList } from '../../src/virtio/io-list.ts';
import { addrBytes, bit, ID, settle, tableBytes, u32s, u64 } from '../support/front-end.ts';
import { SharedGuest } from '../support/front-end-memory.ts';
import { fc } from '../support/property.ts';
import { assert } from '../support/suite.ts';
import { FakeTransport } from './fake-transport.ts';
import { Flicker, type Impostor } from './flicker.ts';

export const DISK_BYTES = 0x1_0000;
const SIZE = 64;
/** INDIRECT_DESC and VERSION_1. */
const FEATURES = bit(28) | bit(32);
export const NOTHING = 0xee;

/** A request in the guest's memory. */
export interface Part {
  head: number;
  /** Guest address and length of what the device may write. */
  response: readonly [number, number];
  data: readonly [number, number];
  /** Make another one of it, that the guest never made. Its data is another already. */
  impersonate: () => void;
}

/** The memory goes away before a pass (0), or after so many looks in it. */
export interface Departure {
  moment: number;
  impostor: Impostor;
}

export const departures: fc.Arbitrary<Departure[]> = fc.array(
  fc.record({
    moment: fc.oneof(fc.constant(0), fc.nat(12), fc.nat(60)),
    impostor: fc.constantFrom<Impostor>('zeroes', 'garbage', 'likeness'),
  }),
  { maxLength: 4 },
);

export interface SideOptions {
  /** The disk tells where its blocks lie. */
  lane: boolean;
  /** The transport says that memory may be exchanged. */
  flickers: boolean;
  queue: number;
  model: (loop: EventLoop, channel: BdevChannel) => DeviceModel;
  /** What the disk says of itself. */
  info?: Partial<BdevInfo>;
  features?: bigint;
}

export class LaneSide {
  readonly errors: unknown[] = [];
  readonly loop = new EventLoop({ onError: (e) => this.errors.push(e) });
  readonly guest = new SharedGuest([
    { gpa: 0, size: 0x4000 },
    { gpa: 0x10_0000, size: 0x8_0000 },
    { gpa: 0x20_0000, size: 0x8_0000 },
  ]);
  readonly transport: FakeTransport;
  readonly disk: MallocBdev;
  readonly session: Session;
  readonly driver: DriverRing;
  readonly flicker: Flicker;
  /** Requests submitted to the disk, i.e. not by the lane. */
  readonly submitted: { op: number; fua: boolean }[] = [];
  private readonly channel: ReturnType<typeof openMallocChannel>;
  private readonly queue: number;

  constructor(options: SideOptions) {
    const { loop, guest } = this;
    const blockSize = options.info?.blockSize ?? 512;
    this.disk = createMallocBdev({ name: 'Malloc0', numBlocks: DISK_BYTES / blockSize, blockSize });
    this.channel = openMallocChannel(this.disk.share());
    Object.assign(this.channel.info, options.info);
    this.contents().forEach((_, i, all) => {
      all[i] = (i >> 9) * 3 + 1;
    });
    this.queue = options.queue;
    const [desc, avail, used] = [
      guest.alloc(16 * SIZE, 16, 0),
      guest.alloc(6 + 2 * SIZE, 2, 0),
      guest.alloc(6 + 8 * SIZE, 4, 0),
    ];
    this.flicker = new Flicker(guest, used + 2);
    if (this.channel.memory !== null) this.flicker.watch(this.channel.memory);
    this.transport = new FakeTransport(guest, options.flickers, [ProtocolFeature.CONFIG]);
    const { transport } = this;
    const model = options.model(loop, this.shown(options.lane));
    this.session = new Session({ loop, transport, model, onClosed: () => {} });
    this.session.open();
    const tables = Math.ceil(guest.alloc(tablesBytes(SIZE, 8) + 4096, 8, 1) / 4096) * 4096;
    const { memory, offset } = guest.part(tables);
    const addressOf = (at: number) => tables + at - offset;
    const ring = DriverRing.create(
      { desc: guest.part(desc), avail: guest.part(avail), used: guest.part(used) },
      { size: SIZE, eventIdx: false, tables: { memory, offset, addressOf, entries: 8 } },
    );
    if (typeof ring === 'string') throw new Error(ring);
    this.driver = ring;
    const { queue } = this;
    transport.deliver(ID.SET_FEATURES, u64((options.features ?? 0n) | FEATURES));
    transport.deliver(ID.SET_MEM_TABLE, tableBytes(guest.regions));
    transport.deliver(ID.SET_VRING_NUM, u32s(queue, SIZE));
    transport.deliver(ID.SET_VRING_BASE, u32s(queue, 0));
    transport.deliver(ID.SET_VRING_ADDR, addrBytes(queue, guest.uva(desc), guest.uva(avail), guest.uva(used)));
    transport.deliver(ID.SET_VRING_KICK, u64(queue | 0x100));
    transport.deliver(ID.SET_VRING_CALL, u64(queue));
    settle(loop);
  }

  /** The disk as the device has it. */
  private shown(lane: boolean): BdevChannel {
    const { channel } = this;
    const direct: DirectAccess = {
      locate: (lba, blocks) => {
        this.flicker.tick();
        return channel.locate(lba, blocks);
      },
      get memory() {
        return channel.memory;
      },
      get offset() {
        return channel.offset;
      },
      done: (op, requests, bytes, ns) => channel.done(op, requests, bytes, ns),
    };
    return new Proxy<BdevChannel>(channel, {
      get: (of, key) => {
        if (key === 'direct') return lane ? direct : undefined;
        const value = Reflect.get(of, key);
        if (key !== 'submit') return typeof value === 'function' ? value.bind(of) : value;
        return (io: BdevIo) => {
          this.submitted.push({ op: io.op, fua: io.fua });
          channel.submit(io);
        };
      },
    });
  }

  contents(): Uint8Array {
    this.channel.locate(0, this.channel.info.numBlocks);
    const { memory, offset } = this.channel;
    return memory?.u8.subarray(offset, offset + DISK_BYTES) ?? new Uint8Array();
  }

  /** A chain of header, data in so many pieces, and response, which the device sees with the next `run`. @returns its head */
  add(
    header: readonly [number, number],
    data: readonly [number, number],
    response: readonly [number, number],
    {
      writes,
      pieces,
      indirect,
      responseFirst,
    }: Record<'writes' | 'indirect' | 'responseFirst', boolean> & { pieces: number },
  ): number {
    const [out, into] = [new IoList(16), new IoList(16)];
    out.pushAddress(...header);
    if (responseFirst) into.pushAddress(...response);
    const [at, bytes] = data;
    const piece = Math.max(1, Math.ceil(bytes / pieces));
    for (let n = 0; n < bytes; n += piece) (writes ? out : into).pushAddress(at + n, Math.min(piece, bytes - n));
    if (!responseFirst) into.pushAddress(...response);
    const head = this.driver.add(out, into, indirect);
    if (head < 0) throw new Error('the ring is full');
    return head;
  }

  /** @returns what each request left behind */
  run<R>(
    requests: readonly R[],
    put: (side: LaneSide, r: R, n: number) => Part,
    leaves: readonly Departure[] = [],
  ): unknown {
    const { guest, flicker, driver, loop } = this;
    const free = guest.regions.map((r) => r.free);
    const parts = requests.map((r, n) => put(this, r, n));
    flicker.disguise = () => {
      for (const { impersonate, data } of parts) {
        guest.write(data[0], new Uint8Array(data[1]).fill(0xbb));
        impersonate();
      }
    };
    if (driver.publish()) this.kick();
    const used = new Map<number, number>();
    const left = [...leaves];
    for (let passes = 0; used.size < requests.length; passes++) {
      assert.ok(passes < 1000, 'the answers come');
      const departure = left.shift();
      if (departure?.moment === 0) flicker.leave(departure.impostor);
      else if (departure !== undefined) flicker.leaveAfter(departure.moment, departure.impostor);
      if (!flicker.away) loop.turn(0);
      if (flicker.away) {
        flicker.look();
        settle(loop, 3);
        flicker.untouched();
      }
      flicker.back();
      this.kick();
      for (let head = driver.poll(); head >= 0; head = driver.poll()) {
        assert.not(used.has(head), 'a head came back twice');
        used.set(head, driver.usedLength);
      }
      assert.is(driver.broken, null);
    }
    settle(loop, 2);
    assert.ok(driver.poll() < 0 && driver.broken === null, 'nothing comes after the last');
    const text = ([at, bytes]: readonly [number, number]) => Buffer.from(guest.read(at, bytes)).toString('hex');
    const answers = parts.map((p) => ({ used: used.get(p.head), response: text(p.response), data: text(p.data) }));
    guest.regions.forEach((r, i) => {
      r.free = free[i] as number;
    });
    return answers;
  }

  private kick(): void {
    this.transport.kicks.get(this.queue)?.();
  }

  /** What the device tells of itself. */
  describe(device: 'scsi' | 'block'): Record<string, number> {
    return (this.session.describe() as Record<string, Record<string, number>>)[device] ?? {};
  }

  /** Requests and bytes that the disk has counted. */
  counts(): number[] {
    const { read, write } = this.disk.stats.snapshot();
    return [read.count, read.bytes, read.errors, write.count, write.bytes, write.errors];
  }

  close(): void {
    this.session.end('the test is over');
    settle(this.loop);
    this.channel.close();
    this.disk.destroy();
    this.guest.close();
    this.loop.close();
    if (this.errors.length > 0) throw this.errors[0];
  }
}

/** Whatever happens to the memory of the one, both leave the same behind. */
export function same(fast: LaneSide, whole: LaneSide): void {
  assert.ok(Buffer.compare(fast.contents(), whole.contents()) === 0, 'the disks are the same');
}
