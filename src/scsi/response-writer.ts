import { Memory } from '../memory/memory.ts';
import { MAX_PARAMETER_BYTES } from './limits.ts';

/**
 * Composes parameter data (INQUIRY, MODE SENSE, ...) whole, in one scratch buffer; sending it cuts it at ALLOCATION
 * LENGTH and at the guest's buffer, so no command has to think of either. One a thread: a response is composed and
 * sent within one call.
 */
export class ResponseWriter {
  private readonly memory = new Memory(new ArrayBuffer(MAX_PARAMETER_BYTES));
  /** Bytes written so far. What does not fit in the scratch is counted, not kept. */
  length = 0;

  /** The scratch, for SgList.scatter. Valid until the next `start`. */
  get scratch(): Memory {
    return this.memory;
  }

  start(): this {
    this.memory.u8.fill(0, 0, Math.min(this.length, MAX_PARAMETER_BYTES));
    this.length = 0;
    return this;
  }

  u8(value: number): this {
    if (this.length < MAX_PARAMETER_BYTES) this.memory.u8[this.length] = value;
    this.length++;
    return this;
  }

  u16(value: number): this {
    return this.u8(value >>> 8).u8(value);
  }

  u32(value: number): this {
    return this.u16(value >>> 16).u16(value);
  }

  /** @param value exact integer below 2^53 */
  u64(value: number): this {
    return this.u32(Math.floor(value / 0x1_0000_0000)).u32(value >>> 0);
  }

  zeros(count: number): this {
    for (let i = 0; i < count; i++) this.u8(0);
    return this;
  }

  /** ASCII text cut or padded with `pad` to `width` bytes; other characters than printable ASCII become '?'. */
  text(value: string, width = value.length, pad = 0x20): this {
    for (let i = 0; i < width; i++) {
      const c = i < value.length ? value.charCodeAt(i) : pad;
      this.u8(i < value.length && (c < 0x20 || c > 0x7e) ? 0x3f : c);
    }
    return this;
  }

  bytes(value: Uint8Array | readonly number[], from = 0, to = value.length): this {
    for (let i = from; i < to; i++) this.u8(value[i]);
    return this;
  }

  /** Change a byte already written. */
  patch8(at: number, value: number): this {
    if (at < MAX_PARAMETER_BYTES) this.memory.u8[at] = value;
    return this;
  }

  patch16(at: number, value: number): this {
    return this.patch8(at, value >>> 8).patch8(at + 1, value & 0xff);
  }

  patch32(at: number, value: number): this {
    return this.patch16(at, value >>> 16).patch16(at + 2, value & 0xffff);
  }
}
