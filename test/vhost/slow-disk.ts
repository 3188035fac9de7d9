/** A disk in plain memory that completes when the test says so. */
import { type BdevChannel, type BdevInfo, type BdevIo, BdevOp, BdevStatus } from '../../src/bdev/bdev.ts';
import { Memory } from '../../src/memory/memory.ts';

export class SlowDisk implements BdevChannel {
  readonly info: BdevInfo;
  readonly zeroCopy = true;
  readonly data: Memory;
  /** Hold requests back until `release`. */
  hold = false;
  /** Hold back what comes after so many more. */
  holdAfter = Number.POSITIVE_INFINITY;
  readonly held: BdevIo[] = [];
  /** Requests executed, by operation. */
  readonly executed: { op: number; lba: number; blocks: number }[] = [];

  constructor(numBlocks = 2048, blockSize = 512, data = new Memory(new ArrayBuffer(numBlocks * blockSize))) {
    this.info = {
      name: 'Slow0',
      product: 'Malloc disk',
      uuid: '11111111-2222-4333-8444-555555555555',
      blockSize,
      physicalBlockSize: blockSize,
      numBlocks,
      writeCache: false,
      readOnly: false,
      unmap: false,
      unmapZeroes: false,
      nonRotational: true,
    };
    this.data = data;
  }

  get inFlight(): number {
    return this.held.length;
  }

  submit(io: BdevIo): void {
    if (this.hold || this.holdAfter-- <= 0) this.held.push(io);
    else this.finish(io);
  }

  /** Complete the oldest `count` of those held. */
  release(count = this.held.length): void {
    for (const io of this.held.splice(0, count)) this.finish(io);
  }

  private finish(io: BdevIo): void {
    const at = io.lba * this.info.blockSize;
    const bytes = io.blocks * this.info.blockSize;
    this.executed.push({ op: io.op, lba: io.lba, blocks: io.blocks });
    io.status = BdevStatus.OK;
    if (io.lba + io.blocks > this.info.numBlocks) io.status = BdevStatus.OUT_OF_RANGE;
    else if (io.op === BdevOp.READ) io.sg.scatter(io.sgOffset, this.data, at, bytes);
    else if (io.op === BdevOp.WRITE) io.sg.gather(io.sgOffset, this.data, at, bytes);
    else if (io.op !== BdevOp.FLUSH) io.status = BdevStatus.NOT_SUPPORTED;
    io.owner.ioDone(io);
  }

  poll(): number {
    return 0;
  }

  reset(): void {}

  close(): void {}
}
