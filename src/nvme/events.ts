import { ioAddressOf } from '../memory/io-address.ts';
import type { DmaBuffer } from '../pci/dma.ts';
import type { AdminQueue } from './admin-queue.ts';
import { AdminOpcode, putAddress, SqeWord } from './commands.ts';
import { NvmeStatus } from './status.ts';

/**
 * Asynchronous events (NVMe Base 2.0 §5.2): one request is always outstanding. An event is masked until its log page has
 * been read, so each answer leads to a read of that page and then to a new request.
 */

/** Event types, and the two notices we act upon. */
const TYPE_NOTICE = 2;
const NOTICE_NAMESPACES_CHANGED = 0;

/** What happened, for the log, and what is to be looked at again. */
export interface AsyncEvent {
  readonly type: number;
  readonly info: number;
  readonly logPage: number;
  readonly namespacesChanged: boolean;
}

/** Bytes of a log page that are read; the content is not looked at, reading it unmasks the event. */
const LOG_BYTES = 4096;
/** A controller that answers faster than this many times in a row has nothing to say: stop asking. */
const MAX_EVENTS = 1000;

export class EventRequest {
  private readonly admin: AdminQueue;
  private readonly page: DmaBuffer;
  private readonly clock: () => number;
  private readonly onEvent: (event: AsyncEvent) => void;
  private count = 0;

  constructor(admin: AdminQueue, page: DmaBuffer, clock: () => number, onEvent: (event: AsyncEvent) => void) {
    this.admin = admin;
    this.page = page;
    this.clock = clock;
    this.onEvent = onEvent;
  }

  /** Keep one request outstanding from now on. It ends by itself when the admin queue is abandoned. */
  start(): void {
    if (++this.count > MAX_EVENTS) return;
    this.admin.send(
      AdminOpcode.ASYNC_EVENT_REQUEST,
      0,
      () => {},
      (status, dw0) => {
        if (status !== NvmeStatus.SUCCESS) return; // refused, or the queue was abandoned
        const event = { type: dw0 & 7, info: (dw0 >>> 8) & 0xff, logPage: (dw0 >>> 16) & 0xff };
        const namespacesChanged = event.type === TYPE_NOTICE && event.info === NOTICE_NAMESPACES_CHANGED;
        this.readLog(event.logPage, () => {
          this.onEvent({ ...event, namespacesChanged });
          this.start();
        });
      },
      this.clock(),
    );
  }

  private readLog(logPage: number, then: () => void): void {
    this.admin.send(
      AdminOpcode.GET_LOG_PAGE,
      0xffff_ffff,
      (words, base) => {
        putAddress(words, base + SqeWord.PRP1, ioAddressOf(this.page.memory, 0));
        words[base + SqeWord.CDW10] = logPage | ((LOG_BYTES / 4 - 1) << 16);
      },
      (status) => {
        if (status <= 0x7ff) then();
      },
      this.clock(),
    );
  }
}
