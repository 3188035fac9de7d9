/**
 * One I/O engine of a kind for each reactor, however many files it serves: counted by its users, closed by the last one.
 */
import type { EventLoop } from './event-loop.ts';
import { InlineEngine } from './inline-io.ts';
import type { IoEngine } from './io-engine.ts';
import { ioUringUnavailable } from './io-uring.ts';
import { IoUringEngine } from './io-uring-engine.ts';
import { logger } from './log.ts';
import { ThreadPoolEngine } from './thread-pool-io.ts';

const log = logger('io');

export type EngineKind = IoEngine['kind'];

interface Shared {
  readonly engine: IoEngine;
  users: number;
}

const byLoop = new WeakMap<EventLoop, Map<EngineKind, Shared>>();
let told = false;

/** io_uring where it is to be had and VVU_NO_IO_URING is not set; else threads, and once the reason. */
export function preferredEngine(): EngineKind {
  const wish = process.env['VVU_NO_IO_URING'];
  if (wish !== undefined && wish !== '' && wish !== '0') return 'threads';
  const why = ioUringUnavailable();
  if (why === null) return 'io_uring';
  if (!told) log.warn(`file disks use threads, which are slower: ${why}`);
  told = true;
  return 'threads';
}

function create(kind: EngineKind, loop: EventLoop): IoEngine {
  if (kind === 'io_uring') return new IoUringEngine(loop);
  return kind === 'threads' ? new ThreadPoolEngine(loop) : new InlineEngine(loop);
}

/** @throws SysError when the host refuses the engine */
export function acquireEngine(loop: EventLoop, kind: EngineKind): IoEngine {
  let engines = byLoop.get(loop);
  if (engines === undefined) {
    engines = new Map();
    byLoop.set(loop, engines);
  }
  let shared = engines.get(kind);
  if (shared === undefined) {
    shared = { engine: create(kind, loop), users: 0 };
    engines.set(kind, shared);
  }
  shared.users++;
  return shared.engine;
}

/** Nothing of the user may be pending. */
export function releaseEngine(loop: EventLoop, engine: IoEngine): void {
  const engines = byLoop.get(loop);
  const shared = engines?.get(engine.kind);
  if (shared === undefined || shared.engine !== engine || --shared.users > 0) return;
  engines?.delete(engine.kind);
  engine.close();
}
