/**
 * The inflight region (vhost-user, "Inflight I/O tracking", split virtqueue): memory shared with the front end that
 * says which requests this process had taken, so that its successor can do them again after a crash.
 *
 * The front end can write it at any time: what recovery reads is copied first and judged, and nothing read here is
 * ever an index without a check.
 */
import type { Memory } from '../memory/memory.ts';
import { defineStruct } from '../memory/struct-table.ts';
import { type Fd, fstat } from '../sys/fd.ts';
import { mapFile, memfd } from '../sys/mapping.ts';
import { withheldPages } from '../sys/withheld-pages.ts';
import type { InflightLog } from '../virtio/inflight-log.ts';
import { MAX_QUEUE_SIZE } from '../virtio/layout.ts';
import type { InflightDescription } from './messages.ts';
import type { RegionMapping } from './transport.ts';

const QUEUE_REGION = defineStruct('QueueRegionSplit', 'vhost-user, Inflight I/O tracking', 16, {
  features: [0, 'u64'],
  version: [8, 'u16'],
  desc_num: [10, 'u16'],
  last_batch_head: [12, 'u16'],
  used_idx: [14, 'u16'],
});

const DESC_STATE = defineStruct('DescStateSplit', 'vhost-user, Inflight I/O tracking', 16, {
  inflight: [0, 'u8'],
  padding: [1, 'bytes', 5],
  next: [6, 'u16'],
  counter: [8, 'u64'],
});

/** 0 means that nobody has used the region yet. */
const VERSION = 1;
/** Queue regions begin at cache lines. Other back ends do the same, and a front end may give us what they made. */
const REGION_ALIGN = 64;
/** Largest region: 256 queues of 1024. Bytes. */
const MAX_REGION = 256 * (MAX_QUEUE_SIZE + 4) * DESC_STATE.size;
const PAGE = 4096;

const VERSION_WORD = QUEUE_REGION.fields.version[0] >> 1;
const DESC_NUM_WORD = QUEUE_REGION.fields.desc_num[0] >> 1;
const LAST_BATCH_WORD = QUEUE_REGION.fields.last_batch_head[0] >> 1;
const USED_IDX_WORD = QUEUE_REGION.fields.used_idx[0] >> 1;
const NEXT_WORD = DESC_STATE.fields.next[0] >> 1;
const COUNTER_WORD = DESC_STATE.fields.counter[0] >> 2;

function queueBytes(queueSize: number): number {
  return Math.ceil((QUEUE_REGION.size + queueSize * DESC_STATE.size) / REGION_ALIGN) * REGION_ALIGN;
}

/** What is wrong with a description, or null. */
function shapeError(d: InflightDescription, maxQueues: number): string | null {
  if (d.numQueues < 1 || d.numQueues > maxQueues) return `${d.numQueues} queues, expected 1 to ${maxQueues}`;
  if (d.queueSize < 1 || d.queueSize > MAX_QUEUE_SIZE) {
    return `queues of ${d.queueSize}, expected 1 to ${MAX_QUEUE_SIZE}`;
  }
  return null;
}

/** What is wrong with a region that a front end gives back, or null. */
export function inflightError(d: InflightDescription, maxQueues: number): string | null {
  const error = shapeError(d, maxQueues);
  if (error !== null) return error;
  const least = d.numQueues * queueBytes(d.queueSize);
  if (!Number.isSafeInteger(d.mmapSize) || d.mmapSize < least || d.mmapSize > MAX_REGION) {
    return `region of ${d.mmapSize} bytes, expected ${least} to ${MAX_REGION}`;
  }
  if (!Number.isSafeInteger(d.mmapOffset) || d.mmapOffset % PAGE !== 0) {
    return `region at offset ${d.mmapOffset}, which is not a multiple of ${PAGE}`;
  }
  return null;
}

/**
 * GET_INFLIGHT_FD: a region for these queues, all zeroes ("not used yet").
 * @returns the descriptor (the caller's) and what to tell, or why not
 */
export function createInflight(
  asked: InflightDescription,
  maxQueues: number,
): { fd: Fd; description: InflightDescription } | string {
  const error = shapeError(asked, maxQueues);
  if (error !== null) return error;
  const mmapSize = asked.numQueues * queueBytes(asked.queueSize);
  // Whole pages: a relay maps it into a virtual machine.
  const fd = memfd('vvu-inflight', Math.ceil(mmapSize / PAGE) * PAGE);
  return { fd, description: { ...asked, mmapSize, mmapOffset: 0 } };
}

/** The region that the front end gave us back (SET_INFLIGHT_FD). */
export class InflightRegion {
  /** Names the file: equal for two sessions that were given the same region. */
  readonly key: string;
  private readonly mapping: RegionMapping;
  private readonly memory: Memory;
  private readonly numQueues: number;
  private readonly queueSize: number;

  /** @returns the region, or what is wrong with it. The descriptor stays the caller's. */
  static open(fd: Fd, d: InflightDescription, maxQueues: number): InflightRegion | string {
    const error = inflightError(d, maxQueues);
    if (error !== null) return error;
    try {
      const withheld = withheldPages(fd);
      if (withheld !== null) return withheld;
      const stat = fstat(fd);
      if (stat.kind !== 'file') return `its descriptor is a ${stat.kind}, not a memfd`;
      const mapping = mapFile(fd, { offset: d.mmapOffset, size: d.mmapSize });
      return InflightRegion.over(
        {
          key: `${stat.dev}:${stat.ino}:${d.mmapOffset}`,
          memoryAt: (offset, bytes) => mapping.memoryAt(offset, bytes),
          release: () => mapping.unmap(),
        },
        d,
      );
    } catch (failure) {
      return (failure as Error).message;
    }
  }

  /** A region that the transport has mapped and `inflightError` finds nothing wrong with; the mapping is its own from now on. */
  static over(mapping: RegionMapping, d: InflightDescription): InflightRegion {
    return new InflightRegion(mapping, d);
  }

  private constructor(mapping: RegionMapping, d: InflightDescription) {
    this.key = mapping.key;
    this.mapping = mapping;
    this.memory = mapping.memoryAt(0, d.mmapSize);
    this.numQueues = d.numQueues;
    this.queueSize = d.queueSize;
  }

  /** The log of one vring, or why it cannot be tracked here. */
  queue(index: number, size: number): InflightQueue | string {
    if (index >= this.numQueues) return `the inflight region has ${this.numQueues} queues`;
    if (size > this.queueSize) return `queue size ${size} is more than the inflight region's ${this.queueSize}`;
    return new InflightQueue(this.memory, index * queueBytes(this.queueSize), this.queueSize, size);
  }

  close(): void {
    this.mapping.release();
  }
}

/** One vring's part of the region; the ring writes it at the moments the protocol demands. */
export class InflightQueue implements InflightLog {
  private readonly u8: Uint8Array;
  private readonly u16: Uint16Array;
  private readonly u32: Uint32Array;
  private readonly base: number;
  private readonly descNum: number;
  private readonly size: number;
  /** The next counter, as two words: it counts for ever. */
  private countLo = 0;
  private countHi = 0;
  /** Nobody had used the region before `recover`. */
  fresh = false;
  /** Heads completed since the last publication. Ours, so that the shared list never leads us. */
  private readonly batch: Uint16Array;
  private batchCount = 0;
  private lastHead = 0;

  /** @param base byte offset of the queue region, a multiple of 64 */
  constructor(memory: Memory, base: number, descNum: number, size: number) {
    this.u8 = memory.u8;
    this.u16 = memory.u16;
    this.u32 = memory.u32;
    this.base = base;
    this.descNum = descNum;
    this.size = size;
    this.batch = new Uint16Array(size);
  }

  private desc(head: number): number {
    return this.base + QUEUE_REGION.size + head * DESC_STATE.size;
  }

  taken(head: number): void {
    const at = this.desc(head);
    this.u32[(at >> 2) + COUNTER_WORD] = this.countLo;
    this.u32[(at >> 2) + COUNTER_WORD + 1] = this.countHi;
    this.countLo = (this.countLo + 1) >>> 0;
    if (this.countLo === 0) this.countHi = (this.countHi + 1) >>> 0;
    this.u8[at] = 1; // last: the counter of an entry in flight is always valid
  }

  completing(head: number): void {
    this.u16[(this.desc(head) >> 1) + NEXT_WORD] = this.lastHead;
    this.u16[(this.base >> 1) + LAST_BATCH_WORD] = head;
    this.lastHead = head;
    this.batch[this.batchCount++] = head;
  }

  published(usedIdx: number): void {
    for (let i = 0; i < this.batchCount; i++) this.u8[this.desc(this.batch[i])] = 0;
    this.batchCount = 0;
    this.u16[(this.base >> 1) + USED_IDX_WORD] = usedIdx; // last: until here a successor repeats the lines above
  }

  /**
   * The vring was stopped in good order: whatever was not given back (a chain that broke the ring) never will be,
   * and the guest's next ring must not inherit it.
   */
  clear(): void {
    for (let head = 0; head < this.size; head++) this.u8[this.desc(head)] = 0;
    this.batchCount = 0;
  }

  /**
   * What a predecessor left: settle its last batch, then list what it had taken and not given back.
   * @param usedIdx used.idx of the ring as it stands in the guest's memory
   * @returns heads in the order they were taken, or why the region cannot be used
   */
  recover(usedIdx: number): number[] | string {
    const words = this.base >> 1;
    if (Atomics.load(this.u16, words + VERSION_WORD) === 0) {
      this.fresh = true;
      this.u16[words + DESC_NUM_WORD] = this.descNum;
      this.u16[words + LAST_BATCH_WORD] = 0;
      this.u16[words + USED_IDX_WORD] = usedIdx;
      this.u16[words + VERSION_WORD] = VERSION;
      return [];
    }
    const version = Atomics.load(this.u16, words + VERSION_WORD);
    if (version !== VERSION) return `inflight region version ${version}, expected ${VERSION}`;
    const descNum = Atomics.load(this.u16, words + DESC_NUM_WORD);
    if (descNum !== this.descNum) return `inflight region of ${descNum} descriptors, expected ${this.descNum}`;
    this.settleLastBatch(usedIdx);
    const found: { head: number; lo: number; hi: number }[] = [];
    for (let head = 0; head < this.descNum; head++) {
      const at = this.desc(head);
      if (Atomics.load(this.u8, at) !== 1) continue;
      if (head >= this.size) return `inflight region names head ${head}, queue size is ${this.size}`;
      const counter = (at >> 2) + COUNTER_WORD;
      found.push({ head, lo: Atomics.load(this.u32, counter), hi: Atomics.load(this.u32, counter + 1) });
    }
    found.sort((a, b) => a.hi - b.hi || a.lo - b.lo);
    const last = found.at(-1);
    if (last !== undefined) {
      this.countLo = (last.lo + 1) >>> 0;
      this.countHi = this.countLo === 0 ? (last.hi + 1) >>> 0 : last.hi;
    }
    return found.map((f) => f.head);
  }

  /** used.idx was written, used_idx was not: the last batch is done, whatever its inflight bytes say. */
  private settleLastBatch(usedIdx: number): void {
    const words = this.base >> 1;
    let left = (usedIdx - Atomics.load(this.u16, words + USED_IDX_WORD)) & 0xffff;
    // A batch is never longer than the queue: more means another life of the ring, in which nothing is in flight.
    if (left > this.descNum) left = 0;
    let head = Atomics.load(this.u16, words + LAST_BATCH_WORD);
    this.lastHead = head < this.descNum ? head : 0;
    for (; left > 0 && head < this.descNum; left--) {
      this.u8[this.desc(head)] = 0;
      head = Atomics.load(this.u16, (this.desc(head) >> 1) + NEXT_WORD);
    }
    this.u16[words + USED_IDX_WORD] = usedIdx;
  }
}
