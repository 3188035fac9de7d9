import { type BdevChannel, type BdevInfo, type BdevIo, BdevOp, BdevStatus } from '../../../src/bdev/bdev.ts';
import { Memory } from '../../../src/memory/memory.ts';

/**
 * A disk in plain memory, for tests of the SCSI layer: completes at once or when told, fails when told, and checks
 * that its user keeps the rules (requests in range, buffers long enough, no request submitted twice).
 */

export const INFO: BdevInfo = {
  name: 'Malloc0',
  product: 'Malloc disk',
  uuid: '7ba3f1c2-0e5b-4f65-9d3a-0a1b2c3d4e5f',
  blockSize: 512,
  physicalBlockSize: 512,
  numBlocks: 1024,
  writeCache: false,
  readOnly: false,
  unmap: true,
  unmapZeroes: true,
  nonRotational: true,
};

export class MemoryChannel implements BdevChannel {
  readonly info: BdevInfo;
  readonly disk: Uint8Array;
  readonly zeroCopy = true;
  /** Requests wait for `complete`, instead of completing within submit. */
  deferred = false;
  readonly waiting: BdevIo[] = [];
  /** Status of coming requests: the first that has the op. */
  readonly failures: { op: BdevOp; status: BdevStatus }[] = [];
  /** Ops that this disk has not. */
  readonly lacks = new Set<BdevOp>();
  /** What was submitted, as text: "WRITE 8+2 fua". */
  log: string[] | null = null;
  resets = 0;

  constructor(info: Partial<BdevInfo> = {}, disk?: Uint8Array) {
    this.info = { ...INFO, ...info };
    this.disk = disk ?? new Uint8Array(this.info.numBlocks * this.info.blockSize);
  }

  get inFlight(): number {
    return this.waiting.length;
  }

  submit(io: BdevIo): void {
    if (this.waiting.includes(io)) throw new Error('a request is submitted twice');
    this.log?.push(`${OPS[io.op]} ${io.lba}+${io.blocks}${io.fua ? ' fua' : ''}`);
    if (this.deferred) this.waiting.push(io);
    else this.finish(io);
  }

  /** Complete the oldest `count` waiting requests. */
  complete(count = this.waiting.length): void {
    for (const io of this.waiting.splice(0, count)) this.finish(io);
  }

  poll(): number {
    return 0;
  }

  reset(): void {
    this.resets++;
    for (const io of this.waiting.splice(0)) {
      io.status = BdevStatus.ABORTED;
      io.owner.ioDone(io);
    }
  }

  close(): void {}

  private finish(io: BdevIo): void {
    const failure = this.failures.findIndex((f) => f.op === io.op);
    if (failure >= 0) io.status = this.failures.splice(failure, 1)[0].status;
    else io.status = this.lacks.has(io.op) ? BdevStatus.NOT_SUPPORTED : this.perform(io);
    io.owner.ioDone(io);
  }

  private perform(io: BdevIo): BdevStatus {
    if (io.op === BdevOp.FLUSH) return BdevStatus.OK;
    const { blockSize, numBlocks } = this.info;
    if (!(Number.isSafeInteger(io.lba) && io.lba >= 0 && io.blocks > 0 && io.lba + io.blocks <= numBlocks)) {
      throw new Error(`a request is out of range: ${io.lba}+${io.blocks}`);
    }
    const from = io.lba * blockSize;
    const bytes = io.blocks * blockSize;
    if (io.op === BdevOp.UNMAP || io.op === BdevOp.WRITE_ZEROES) {
      this.disk.fill(0, from, from + bytes);
      return BdevStatus.OK;
    }
    if (io.sgOffset + bytes > io.sg.bytes) throw new Error('a request is longer than its buffers');
    if (io.op === BdevOp.READ) {
      io.sg.scatter(io.sgOffset, memoryOf(this.disk.subarray(from, from + bytes)), 0, bytes);
      return BdevStatus.OK;
    }
    const data = new Memory(new ArrayBuffer(bytes));
    io.sg.gather(io.sgOffset, data, 0, bytes);
    if (io.op === BdevOp.WRITE) {
      this.disk.set(data.u8, from);
      return BdevStatus.OK;
    }
    for (let i = 0; i < bytes; i++) {
      if (data.u8[i] !== this.disk[from + i]) {
        io.miscompareOffset = i;
        return BdevStatus.MISCOMPARE;
      }
    }
    return BdevStatus.OK;
  }
}

const OPS = Object.keys(BdevOp);

function memoryOf(bytes: Uint8Array): Memory {
  const memory = new Memory(new ArrayBuffer(bytes.length));
  memory.u8.set(bytes);
  return memory;
}
