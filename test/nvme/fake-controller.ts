/**
 * An NVMe controller in plain memory: registers, doorbells, queues, namespaces. A driver can't tell it from a device, but that
 * it does nothing until `step` is called. Tests make it slow, deaf, lying or gone.
 */
import { Memory } from '../../src/memory/memory.ts';
import { AdminOpcode, NvmOpcode } from '../../src/nvme/commands.ts';
import type { NvmeDevice } from '../../src/nvme/device.ts';
import { IDENTIFY_CONTROLLER, IDENTIFY_NAMESPACE } from '../../src/nvme/identify.ts';
import { DOORBELL_BASE, NVME_REGISTERS } from '../../src/nvme/registers.ts';
import { NvmeStatus } from '../../src/nvme/status.ts';
import type { DmaShare } from '../../src/pci/dma.ts';
import { EventFd } from '../../src/sys/eventfd.ts';
import { Fd } from '../../src/sys/fd.ts';
import type { FakeDma } from '../support/fake-dma.ts';

const R = NVME_REGISTERS;

export interface FakeNamespace {
  blockSize: number;
  blocks: number;
  metadata?: number;
  /** What Identify says, where it differs from the truth. */
  claimedBlocks?: bigint;
  readOnly?: boolean;
  dlfeat?: number;
}

export interface FakeOptions {
  namespaces?: FakeNamespace[];
  mqes?: number;
  dstrd?: number;
  to?: number;
  mpsmin?: number;
  css?: number;
  mdts?: number;
  /** SGLS bits 1:0. */
  sgls?: number;
  oncs?: number;
  vwc?: number;
  version?: number;
  /** I/O queues granted. */
  queues?: number;
  vectors?: number;
  barBytes?: number;
  sqes?: number;
  /** Steps from CC.EN to CSTS.RDY. */
  readySteps?: number;
}

interface Queue {
  readonly id: number;
  readonly base: number;
  readonly entries: number;
  /** Submission: its completion queue. */
  readonly cq: number;
  readonly vector: number;
  head: number;
  tail: number;
  phase: number;
}

export interface FakeCommand {
  readonly sqid: number;
  readonly cid: number;
  readonly opcode: number;
  readonly nsid: number;
  readonly dw: Uint32Array;
}

export class FakeNvme implements NvmeDevice {
  readonly name = '0000:00:06.0';
  readonly bar: Memory;
  readonly dma: FakeDma;
  readonly vectors: number;
  readonly options: Required<FakeOptions>;
  readonly disks: Uint8Array[];
  /** Commands taken from the rings and not completed. */
  pending: FakeCommand[] = [];
  /** Completions sent, by opcode of I/O commands. */
  readonly done = new Map<number, number>();
  /** Log of everything that was done to the function. */
  readonly history: string[] = [];
  /** DMA allowed (bus mastering). */
  master = false;
  /** Complete at once what is fetched. */
  auto = true;
  /** Fetch nothing: a hung device. */
  hung = false;
  /** Status for a command instead of doing it; undefined does it. */
  fault: (command: FakeCommand) => number | undefined = () => undefined;
  serial = 'FAKE0001';
  resets = 0;
  private readonly bar32: Uint32Array;
  private readonly shared: SharedArrayBuffer;
  private sqs = new Map<number, Queue>();
  private cqs = new Map<number, Queue>();
  private enabled = false;
  private countdown = -1;
  private events: FakeCommand[] = [];
  private fds: readonly number[] = [];
  private removal: (() => void) | null = null;
  private gone = false;

  constructor(dma: FakeDma, options: FakeOptions = {}) {
    this.dma = dma;
    this.options = {
      namespaces: options.namespaces ?? [{ blockSize: 512, blocks: 2048 }],
      mqes: options.mqes ?? 1023,
      dstrd: options.dstrd ?? 0,
      to: options.to ?? 4,
      mpsmin: options.mpsmin ?? 0,
      css: options.css ?? 1,
      mdts: options.mdts ?? 7,
      sgls: options.sgls ?? 0,
      oncs: options.oncs ?? 0x0d,
      vwc: options.vwc ?? 1,
      version: options.version ?? 0x1_0400,
      queues: options.queues ?? 8,
      vectors: options.vectors ?? 0,
      barBytes: options.barBytes ?? 0x4000,
      sqes: options.sqes ?? 0x66,
      readySteps: options.readySteps ?? 2,
    };
    this.vectors = this.options.vectors;
    this.shared = new SharedArrayBuffer(this.options.barBytes);
    this.bar = new Memory(this.shared);
    this.bar32 = this.bar.u32;
    this.disks = this.options.namespaces.map((n) => new Uint8Array(n.blockSize * n.blocks));
    this.writeRegisters();
  }

  private writeRegisters(): void {
    const o = this.options;
    this.bar32[R.CAP.offset >> 2] = (o.mqes | (1 << 16) | (o.to << 24)) >>> 0;
    this.bar32[(R.CAP.offset >> 2) + 1] = o.dstrd | (o.css << 5) | (o.mpsmin << 16) | (4 << 20);
    this.bar32[R.VS.offset >> 2] = o.version;
    this.bar32[R.CSTS.offset >> 2] = 0;
  }

  // NvmeDevice

  shareBar(): DmaShare {
    return { place: { buffer: this.shared }, bytes: this.options.barBytes, ioAddress: -1, ioPages: null };
  }

  connectInterrupts(fds: readonly number[]): void {
    this.history.push(`interrupts ${fds.length}`);
    this.fds = fds;
  }

  enableDma(): void {
    this.history.push('master on');
    this.master = true;
  }

  quiet(): void {
    this.history.push('quiet');
    this.master = false;
    this.disable();
  }

  onRemovalRequest(fn: () => void): void {
    this.removal = fn;
  }

  // What tests do to it

  requestRemoval(): void {
    this.removal?.();
  }

  /** Pull it out: every register reads all ones from now on. */
  pull(): void {
    this.gone = true;
    this.bar32.fill(0xffff_ffff);
  }

  /** An asynchronous event. @returns false when the driver keeps no request outstanding */
  event(dw0: number): boolean {
    const request = this.events.shift();
    if (request === undefined) return false;
    this.complete(request, 0, dw0);
    return true;
  }

  get eventRequests(): number {
    return this.events.length;
  }

  setFatal(): void {
    this.bar32[R.CSTS.offset >> 2] |= 2;
  }

  /** Put any completion into a queue. */
  forge(sqid: number, cid: number, status: number, cqid = sqid): void {
    this.post(cqid, sqid, cid, status, 0);
  }

  /** Complete the pending command at this place. */
  finish(index: number): boolean {
    const [command] = this.pending.splice(index, 1);
    if (command === undefined) return false;
    this.execute(command);
    return true;
  }

  /** Look at registers and doorbells, fetch, and (when `auto`) complete. @returns commands fetched */
  step(): number {
    if (this.gone) return 0;
    this.followRegisters();
    if (!this.enabled || this.hung) return 0;
    let fetched = 0;
    for (const sq of [...this.sqs.values()]) {
      sq.tail = this.bar32[this.doorbell(2 * sq.id)] as number;
      if (sq.tail >= sq.entries) throw new Error(`doorbell of queue ${sq.id} is ${sq.tail} of ${sq.entries}`);
      while (sq.head !== sq.tail && this.sqs.get(sq.id) === sq) {
        this.fetch(sq);
        fetched++;
      }
    }
    if (this.auto) while (this.finish(0));
    return fetched;
  }

  private doorbell(n: number): number {
    return (DOORBELL_BASE + n * (4 << this.options.dstrd)) >> 2;
  }

  private followRegisters(): void {
    const wanted = (this.bar32[R.CC.offset >> 2] & 1) === 1;
    if (!wanted && (this.enabled || this.countdown >= 0)) this.disable();
    const csts = R.CSTS.offset >> 2;
    if (wanted && !this.enabled && this.countdown < 0) this.countdown = this.options.readySteps;
    if (wanted && !this.enabled && this.countdown-- === 0) this.enable();
    if (this.enabled && ((this.bar32[R.CC.offset >> 2] as number) >> 14) % 4 === 1) {
      this.history.push('shutdown');
      this.bar32[csts] |= 2 << 2;
    }
  }

  private disable(): void {
    if (this.enabled) this.resets++;
    this.enabled = false;
    this.countdown = -1;
    this.sqs.clear();
    this.cqs.clear();
    this.pending = [];
    this.events = [];
    if (this.gone) return;
    this.bar32[R.CSTS.offset >> 2] = 0;
    this.bar32.fill(0, DOORBELL_BASE >> 2);
  }

  private enable(): void {
    const aqa = this.bar32[R.AQA.offset >> 2] as number;
    const address = (offset: number) =>
      (this.bar32[offset >> 2] as number) + (this.bar32[(offset >> 2) + 1] as number) * 2 ** 32;
    const cc = this.bar32[R.CC.offset >> 2] as number;
    if (((cc >> 16) & 15) !== 6 || ((cc >> 20) & 15) !== 4)
      throw new Error(`CC 0x${cc.toString(16)}: wrong entry sizes`);
    const entries = (aqa & 0xfff) + 1;
    this.sqs.set(0, { id: 0, base: address(R.ASQ.offset), entries, cq: 0, vector: 0, head: 0, tail: 0, phase: 1 });
    const completions = ((aqa >> 16) & 0xfff) + 1;
    this.cqs.set(0, {
      id: 0,
      base: address(R.ACQ.offset),
      entries: completions,
      cq: 0,
      vector: 0,
      head: 0,
      tail: 0,
      phase: 1,
    });
    this.enabled = true;
    this.bar32[R.CSTS.offset >> 2] = 1;
  }

  private dmaCopy(address: number, bytes: number, device: Uint8Array, at: number, toMemory: boolean): boolean {
    if (!this.master) this.dma.violations.push('DMA without bus mastering');
    return this.dma.access(address, bytes, device, at, toMemory);
  }

  private fetch(sq: Queue): void {
    const entry = new Uint8Array(64);
    this.dmaCopy(sq.base + sq.head * 64, 64, entry, 0, false);
    sq.head = (sq.head + 1) % sq.entries;
    const dw = new Uint32Array(entry.buffer);
    const command = { sqid: sq.id, cid: dw[0] >>> 16, opcode: dw[0] & 0xff, nsid: dw[1] as number, dw };
    if (sq.id === 0 && command.opcode === AdminOpcode.ASYNC_EVENT_REQUEST) this.events.push(command);
    else if (sq.id === 0) this.admin(command);
    else this.pending.push(command);
  }

  private complete(command: FakeCommand, status: number, dw0 = 0): void {
    const sq = this.sqs.get(command.sqid);
    if (sq !== undefined) this.post(sq.cq, command.sqid, command.cid, status, dw0);
  }

  private post(cqid: number, sqid: number, cid: number, status: number, dw0: number): void {
    const cq = this.cqs.get(cqid);
    if (cq === undefined) return;
    const at = this.dma.word(cq.base + cq.tail * 16);
    if (at === undefined) return;
    const { memory, index } = at;
    memory.u32[index] = dw0;
    memory.u32[index + 1] = 0;
    memory.u32[index + 2] = ((this.sqs.get(sqid)?.head ?? 0) | (sqid << 16)) >>> 0;
    Atomics.store(memory.u32, index + 3, (cid | (cq.phase << 16) | (status << 17)) >>> 0);
    cq.tail++;
    if (cq.tail === cq.entries) {
      cq.tail = 0;
      cq.phase ^= 1;
    }
    const fd = this.fds[cq.vector];
    if (fd !== undefined) new EventFd(Fd.take(fd)).signal();
  }

  // Commands

  private admin(command: FakeCommand): void {
    const forced = this.fault(command);
    if (forced !== undefined) {
      if (forced >= 0) this.complete(command, forced);
      return;
    }
    const { dw } = command;
    const address = dw[6] + dw[7] * 2 ** 32;
    switch (command.opcode) {
      case AdminOpcode.IDENTIFY: {
        const page = this.identifyPage(dw[10] & 0xff, command.nsid);
        if (page === undefined) {
          this.complete(command, NvmeStatus.INVALID_FIELD);
          return;
        }
        this.dmaCopy(address, 4096, page, 0, true);
        this.complete(command, 0);
        return;
      }
      case AdminOpcode.SET_FEATURES:
        this.complete(command, 0, ((this.options.queues - 1) * 0x1_0001) >>> 0);
        return;
      case AdminOpcode.GET_LOG_PAGE:
        this.dmaCopy(address, 4096, new Uint8Array(4096), 0, true);
        this.complete(command, 0);
        return;
      case AdminOpcode.CREATE_IO_CQ:
      case AdminOpcode.CREATE_IO_SQ: {
        const id = dw[10] & 0xffff;
        const map = command.opcode === AdminOpcode.CREATE_IO_CQ ? this.cqs : this.sqs;
        if (map.has(id) || id === 0 || id > this.options.queues) {
          this.complete(command, NvmeStatus.INVALID_QUEUE_ID);
          return;
        }
        const cq = dw[11] >>> 16;
        map.set(id, { id, base: address, entries: (dw[10] >>> 16) + 1, cq, vector: cq, head: 0, tail: 0, phase: 1 });
        this.complete(command, 0);
        return;
      }
      case AdminOpcode.ABORT: {
        const at = this.pending.findIndex((p) => p.sqid === (dw[10] & 0xffff) && p.cid === dw[10] >>> 16);
        const [victim] = at < 0 ? [] : this.pending.splice(at, 1);
        if (victim !== undefined) this.complete(victim, NvmeStatus.ABORT_REQUESTED);
        this.complete(command, 0, victim === undefined ? 1 : 0);
        return;
      }
      default:
        this.complete(command, NvmeStatus.INVALID_OPCODE);
        return;
    }
  }

  private identifyPage(cns: number, nsid: number): Uint8Array | undefined {
    const page = new Uint8Array(4096);
    const v = new DataView(page.buffer);
    const o = this.options;
    const text = (at: number, length: number, value: string) => page.set(Buffer.from(value.padEnd(length)), at);
    if (cns === 1) {
      const F = IDENTIFY_CONTROLLER.fields;
      v.setUint16(F.vid[0], 0x1b36, true);
      text(F.sn[0], 20, this.serial);
      text(F.mn[0], 40, 'Fake NVMe Ctrl');
      text(F.fr[0], 8, '1.0');
      v.setUint8(F.mdts[0], o.mdts);
      v.setUint32(F.ver[0], o.version, true);
      v.setUint32(F.oaes[0], 0x100, true);
      v.setUint8(F.acl[0], 3);
      v.setUint8(F.sqes[0], o.sqes);
      v.setUint8(F.cqes[0], 0x44);
      v.setUint32(F.nn[0], o.namespaces.length, true);
      v.setUint16(F.oncs[0], o.oncs, true);
      v.setUint8(F.vwc[0], o.vwc);
      v.setUint32(F.sgls[0], o.sgls, true);
      return page;
    }
    if (cns === 2) {
      for (let i = 0; i < o.namespaces.length; i++) v.setUint32(4 * i, i + 1, true);
      return page;
    }
    const ns = o.namespaces[nsid - 1];
    if (ns === undefined || cns !== 0) return cns === 3 ? page : undefined;
    const F = IDENTIFY_NAMESPACE.fields;
    v.setBigUint64(F.nsze[0], ns.claimedBlocks ?? BigInt(ns.blocks), true);
    v.setUint8(F.nlbaf[0], 1);
    v.setUint8(F.flbas[0], 1);
    v.setUint8(F.dlfeat[0], ns.dlfeat ?? 9);
    v.setUint8(F.nsattr[0], ns.readOnly === true ? 1 : 0);
    v.setUint16(F.lbaf[0] + 4, ns.metadata ?? 0, true);
    v.setUint8(F.lbaf[0] + 6, Math.log2(ns.blockSize));
    return page;
  }

  private execute(command: FakeCommand): void {
    const forced = this.fault(command);
    if (forced !== undefined) {
      if (forced >= 0) this.complete(command, forced);
      return;
    }
    this.done.set(command.opcode, (this.done.get(command.opcode) ?? 0) + 1);
    this.complete(command, this.perform(command));
  }

  private perform({ opcode, nsid, dw }: FakeCommand): number {
    const ns = this.options.namespaces[nsid - 1];
    const disk = this.disks[nsid - 1];
    if (ns === undefined || disk === undefined) return NvmeStatus.INVALID_NAMESPACE_OR_FORMAT;
    if (opcode === NvmOpcode.FLUSH) return 0;
    if (opcode === NvmOpcode.DATASET_MANAGEMENT) return this.deallocate(ns, disk, dw);
    const lba = dw[10] + dw[11] * 2 ** 32;
    const blocks = (dw[12] & 0xffff) + 1;
    const bytes = blocks * ns.blockSize;
    if (lba + blocks > ns.blocks) return NvmeStatus.LBA_OUT_OF_RANGE;
    const at = lba * ns.blockSize;
    if (opcode === NvmOpcode.WRITE_ZEROES) {
      disk.fill(0, at, at + bytes);
      return 0;
    }
    if (this.options.mdts !== 0 && bytes > 4096 << this.options.mdts) return NvmeStatus.INVALID_FIELD;
    if (opcode === NvmOpcode.WRITE && ns.readOnly === true) return NvmeStatus.NAMESPACE_WRITE_PROTECTED;
    if (opcode === NvmOpcode.COMPARE) {
      const data = new Uint8Array(bytes);
      const status = this.transfer(dw, data, 0, bytes, false);
      if (status !== 0) return status;
      return Buffer.compare(data, disk.subarray(at, at + bytes)) === 0 ? 0 : NvmeStatus.COMPARE_FAILURE;
    }
    if (opcode !== NvmOpcode.READ && opcode !== NvmOpcode.WRITE) return NvmeStatus.INVALID_OPCODE;
    return this.transfer(dw, disk, at, bytes, opcode === NvmOpcode.READ);
  }

  private deallocate(ns: FakeNamespace, disk: Uint8Array, dw: Uint32Array): number {
    const ranges = (dw[10] & 0xff) + 1;
    const list = new Uint8Array(ranges * 16);
    if (!this.dmaCopy(dw[6] + dw[7] * 2 ** 32, list.length, list, 0, false)) return NvmeStatus.DATA_TRANSFER_ERROR;
    const w = new Uint32Array(list.buffer);
    for (let i = 0; i < ranges; i++) {
      const lba = w[4 * i + 2] + w[4 * i + 3] * 2 ** 32;
      if (lba + w[4 * i + 1] > ns.blocks) return NvmeStatus.LBA_OUT_OF_RANGE;
      disk.fill(0, lba * ns.blockSize, (lba + w[4 * i + 1]) * ns.blockSize);
    }
    return 0;
  }

  /** Follow the command's data pointer. */
  private transfer(dw: Uint32Array, disk: Uint8Array, at: number, bytes: number, toMemory: boolean): number {
    const moved = dw[0] & (1 << 14) ? this.sgl(dw, disk, at, bytes, toMemory) : this.prp(dw, disk, at, bytes, toMemory);
    return moved;
  }

  private prp(dw: Uint32Array, disk: Uint8Array, at: number, bytes: number, toMemory: boolean): number {
    const first = dw[6] + dw[7] * 2 ** 32;
    const second = dw[8] + dw[9] * 2 ** 32;
    let n = Math.min(4096 - (first % 4096), bytes);
    if (!this.dmaCopy(first, n, disk, at, toMemory)) return NvmeStatus.DATA_TRANSFER_ERROR;
    if (bytes - n <= 4096) {
      if (bytes === n) return 0;
      if (second % 4096 !== 0) return NvmeStatus.INVALID_PRP_OFFSET;
      return this.dmaCopy(second, bytes - n, disk, at + n, toMemory) ? 0 : NvmeStatus.DATA_TRANSFER_ERROR;
    }
    for (let entry = 0; n < bytes; entry++) {
      // The last entry of a list page would be the next page's address.
      if ((second % 4096) / 8 + entry >= 512) return NvmeStatus.INVALID_PRP_OFFSET;
      const word = this.dma.word(second + 8 * entry);
      if (word === undefined) return NvmeStatus.DATA_TRANSFER_ERROR;
      const page = word.memory.u32[word.index] + word.memory.u32[word.index + 1] * 2 ** 32;
      if (page % 4096 !== 0) return NvmeStatus.INVALID_PRP_OFFSET;
      const k = Math.min(4096, bytes - n);
      if (!this.dmaCopy(page, k, disk, at + n, toMemory)) return NvmeStatus.DATA_TRANSFER_ERROR;
      n += k;
    }
    return 0;
  }

  private sgl(dw: Uint32Array, disk: Uint8Array, at: number, bytes: number, toMemory: boolean): number {
    if (this.options.sgls === 0) return NvmeStatus.INVALID_FIELD;
    let list = dw.subarray(6, 10);
    if (list[3] >>> 24 === 0x30) {
      const segment = new Uint8Array(list[2]);
      if (!this.dmaCopy(list[0] + list[1] * 2 ** 32, segment.length, segment, 0, false))
        return NvmeStatus.DATA_TRANSFER_ERROR;
      list = new Uint32Array(segment.buffer);
    }
    let n = 0;
    for (let i = 0; i + 3 < list.length; i += 4) {
      if (list[i + 3] >>> 24 !== 0) return NvmeStatus.SGL_TYPE;
      if (n + list[i + 2] > bytes) return NvmeStatus.SGL_DATA_LENGTH;
      if (!this.dmaCopy(list[i] + list[i + 1] * 2 ** 32, list[i + 2], disk, at + n, toMemory))
        return NvmeStatus.DATA_TRANSFER_ERROR;
      n += list[i + 2];
    }
    return n === bytes ? 0 : NvmeStatus.SGL_DATA_LENGTH;
  }
}
