import { ioAddressOf } from '../memory/io-address.ts';
import type { SgCursor } from '../memory/sg-cursor.ts';
import type { SgList } from '../memory/sg-list.ts';
import {
  CDW12_DEAC,
  CDW12_FUA,
  DSM_ATTRIBUTE_DEALLOCATE,
  NvmOpcode,
  PSDT_SGL,
  SQE_WORDS,
  SqeWord,
} from '../nvme/commands.ts';
import { buildPrp, buildSgl, MAX_DESCRIBED, type PointerPlace } from '../nvme/data-pointer.ts';
import { NvmeIoQueue } from '../nvme/io-queue.ts';
import type { NvmeShare } from '../nvme/share.ts';
import { NvmeStatus } from '../nvme/status.ts';
import { Ended, type QueueLoop } from '../pci/reactor-queue.ts';
import { BdevOp, type BdevShare, BdevStatus } from './bdev.ts';
import type { CommandLimits } from './command-channel.ts';
import { QueueChannel, queueFor } from './queue-channel.ts';

/** A reactor's way to an NVMe namespace, over the reactor's queue pair of the controller. */

/** {@link BdevShare.data} of an NVMe disk. */
export interface NvmeBdevShare {
  readonly controller: NvmeShare;
  readonly nsid: number;
  /** UNMAP by WRITE ZEROES with the deallocate bit: then the blocks are sure to read as zeroes. */
  readonly unmapByZeroes: boolean;
  /** Memory of the process's table of DMA mappings; null where memory has its I/O addresses by other means. */
  readonly dmaTable: SharedArrayBuffer | null;
}

/** NLB is 16 bits, 0's based. */
const MAX_BLOCKS = 65536;
/** Length of one DSM range: 32 bits. */
const MAX_DSM_BLOCKS = 0xffff_ffff;
/** Bytes of list page a command. */
const PAGE = 4096;

const OPCODE = {
  [BdevOp.READ]: NvmOpcode.READ,
  [BdevOp.WRITE]: NvmOpcode.WRITE,
  [BdevOp.FLUSH]: NvmOpcode.FLUSH,
  [BdevOp.UNMAP]: NvmOpcode.DATASET_MANAGEMENT,
  [BdevOp.WRITE_ZEROES]: NvmOpcode.WRITE_ZEROES,
  [BdevOp.COMPARE]: NvmOpcode.COMPARE,
} as const;

/** What an NVMe status is to the layers above; what is not here is an I/O error. */
const STATUS = new Map<number, BdevStatus>([
  [NvmeStatus.SUCCESS, BdevStatus.OK],
  [NvmeStatus.INVALID_OPCODE, BdevStatus.NOT_SUPPORTED],
  [NvmeStatus.ABORT_REQUESTED, BdevStatus.ABORTED],
  [NvmeStatus.ABORTED_SQ_DELETION, BdevStatus.ABORTED],
  [NvmeStatus.ABORTED_POWER_LOSS, BdevStatus.ABORTED],
  [NvmeStatus.INVALID_NAMESPACE_OR_FORMAT, BdevStatus.REMOVED],
  [NvmeStatus.NAMESPACE_WRITE_PROTECTED, BdevStatus.WRITE_PROTECTED],
  [NvmeStatus.WRITE_TO_READ_ONLY_RANGE, BdevStatus.WRITE_PROTECTED],
  [NvmeStatus.LBA_OUT_OF_RANGE, BdevStatus.OUT_OF_RANGE],
  [NvmeStatus.CAPACITY_EXCEEDED, BdevStatus.NO_SPACE],
  [NvmeStatus.NAMESPACE_NOT_READY, BdevStatus.NOT_READY],
  [NvmeStatus.FORMAT_IN_PROGRESS, BdevStatus.NOT_READY],
  [NvmeStatus.RESERVATION_CONFLICT, BdevStatus.RESERVATION_CONFLICT],
  [NvmeStatus.WRITE_FAULT, BdevStatus.WRITE_ERROR],
  [NvmeStatus.UNRECOVERED_READ_ERROR, BdevStatus.READ_ERROR],
  [NvmeStatus.DEALLOCATED_BLOCK, BdevStatus.READ_ERROR],
  [NvmeStatus.COMPARE_FAILURE, BdevStatus.MISCOMPARE],
  [Ended.ABORTED, BdevStatus.ABORTED],
  [Ended.FAILED, BdevStatus.IO_ERROR],
  [Ended.REMOVED, BdevStatus.REMOVED],
]);

function limitsOf(data: NvmeBdevShare, blockSize: number): CommandLimits {
  const { limits } = data.controller;
  const transfer = Math.min(limits.maxTransfer, MAX_DESCRIBED, MAX_BLOCKS * blockSize);
  // MDTS need not count for WRITE ZEROES, but older firmware stumbles over more.
  const zero = limits.writeZeroes
    ? Math.min(MAX_BLOCKS, Math.floor(Math.min(limits.maxTransfer, 2 ** 40) / blockSize))
    : 0;
  return {
    maxTransfer: transfer - (transfer % blockSize),
    maxZeroBlocks: zero,
    maxUnmapBlocks: data.unmapByZeroes ? zero : limits.datasetManagement ? MAX_DSM_BLOCKS : 0,
    compare: limits.compare,
    flush: limits.volatileWriteCache,
    fua: true,
  };
}

export class NvmeChannel extends QueueChannel<NvmeIoQueue> {
  private readonly nsid: number;
  private readonly unmapByZeroes: boolean;
  private readonly place: PointerPlace;
  /** SGL alignment; 0: PRPs only. */
  private readonly sglAlignment: number;
  private readonly words: Uint32Array;

  constructor(share: BdevShare, queue: NvmeIoQueue) {
    const data = share.data as NvmeBdevShare;
    super(share, limitsOf(data, share.info.blockSize), queue, data.controller.bounceBytes, data.dmaTable);
    this.nsid = data.nsid;
    this.unmapByZeroes = data.unmapByZeroes;
    this.words = queue.pair.words;
    this.place = { words: queue.pair.words, lists: queue.lists };
    const { sgl } = data.controller.limits;
    this.sglAlignment = sgl === 'byte' ? 1 : sgl === 'dword' ? 4 : 0;
  }

  commandDone(cid: number, status: number): void {
    this.ended(cid, STATUS.get(status) ?? BdevStatus.IO_ERROR);
  }

  protected takeSlot(op: BdevOp): number {
    const opcode = op === BdevOp.UNMAP && this.unmapByZeroes ? NvmOpcode.WRITE_ZEROES : OPCODE[op];
    return this.queue.allocate(opcode, this.nsid);
  }

  protected describe(slot: number, _op: BdevOp, sg: SgList, at: SgCursor, bytes: number): number {
    const base = slot * SQE_WORDS;
    const listAt = slot * PAGE;
    const granule = this.info.blockSize;
    const named = buildPrp(this.place, base, listAt, sg, at, bytes, granule);
    if (named === bytes || this.sglAlignment === 0) return named;
    const better = buildSgl(this.place, base, listAt, sg, at, bytes, granule, this.sglAlignment);
    if (better >= named && better > 0) return better;
    this.words[base] &= ~PSDT_SGL;
    return named === 0 ? 0 : buildPrp(this.place, base, listAt, sg, at, bytes, granule);
  }

  protected send(slot: number, op: BdevOp, lba: number, blocks: number, fua: boolean): void {
    const words = this.words;
    const base = slot * SQE_WORDS;
    if (op === BdevOp.UNMAP && !this.unmapByZeroes) {
      this.writeRange(slot, lba, blocks);
    } else if (op !== BdevOp.FLUSH) {
      const hi = Math.floor(lba / 4294967296);
      words[base + SqeWord.CDW10] = lba - hi * 4294967296;
      words[base + SqeWord.CDW11] = hi;
      let control = blocks - 1;
      if (fua && op !== BdevOp.READ) control |= CDW12_FUA;
      if (op === BdevOp.UNMAP) control |= CDW12_DEAC;
      words[base + SqeWord.CDW12] = control;
    }
    this.queue.submit(slot, this);
  }

  /** DATASET MANAGEMENT with one range, which lies in the command's list page (NVM Command Set 1.0 §3.2.3). */
  private writeRange(slot: number, lba: number, blocks: number): void {
    const list = this.place.lists.u32;
    const at = (slot * PAGE) >> 2;
    const hi = Math.floor(lba / 4294967296);
    list[at] = 0; // context attributes
    list[at + 1] = blocks;
    list[at + 2] = lba - hi * 4294967296;
    list[at + 3] = hi;
    const address = ioAddressOf(this.place.lists, slot * PAGE);
    const top = Math.floor(address / 4294967296);
    const base = slot * SQE_WORDS;
    this.words[base + SqeWord.PRP1] = address - top * 4294967296;
    this.words[base + SqeWord.PRP1 + 1] = top;
    this.words[base + SqeWord.CDW10] = 0; // one range, 0's based
    this.words[base + SqeWord.CDW11] = DSM_ATTRIBUTE_DEALLOCATE;
  }
}

/** @throws BdevError when no queue pair is free */
export function openNvmeChannel(share: BdevShare, loop: QueueLoop): NvmeChannel {
  const data = share.data as NvmeBdevShare;
  return new NvmeChannel(
    share,
    queueFor(share, () => NvmeIoQueue.open(data.controller, loop)),
  );
}
