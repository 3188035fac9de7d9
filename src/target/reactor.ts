import { EventFd } from '../sys/eventfd.ts';
import { type Guarded, guardThread } from '../sys/stall-guard.ts';
import { startWorker } from '../sys/worker.ts';
import type { AnswerMessage, CommandName, CommandParams, CommandResult, SaveRequest } from './commands.ts';
import { Caller } from './mailbox.ts';

/**
 * A reactor as the main thread sees it: something that takes commands. Whether a worker thread or this thread stands
 * behind it makes no difference to anybody.
 */

export interface ReactorOptions {
  /** Never sleep. */
  poll?: boolean | undefined;
  spinMicroseconds?: number | undefined;
}

export interface Reactor {
  readonly cpu: number;
  call<K extends CommandName>(name: K, params: CommandParams<K>): Promise<CommandResult<K>>;
  /** Called when it ends without having been told to: nothing that it served works any more. */
  onFailure: (error: Error) => void;
  /** A guest's reservations are to be saved; `reservationsSaved` answers. */
  onSave: (request: SaveRequest['save']) => void;
  /** After the answer to "shutdown": release what the main thread holds. */
  close(): Promise<void>;
}

/** What a worker thread is started with. */
export interface ReactorData {
  cpu: number;
  bell: number;
  options: ReactorOptions;
}

/** The thread runs, and this is how to guard it. */
export interface ReadyMessage {
  ready: Guarded;
}

/** A reactor on a thread of its own, pinned to its CPU. */
export class WorkerReactor implements Reactor {
  readonly cpu: number;
  onFailure: (error: Error) => void = () => {};
  onSave: (request: SaveRequest['save']) => void = () => {};
  private readonly caller: Caller;
  private readonly bell = new EventFd();
  private readonly ended: Promise<void>;
  private ending = false;

  private constructor(cpu: number, options: ReactorOptions, ready: (error?: Error) => void) {
    this.cpu = cpu;
    const data: ReactorData = { cpu, bell: this.bell.fd.number, options };
    const worker = startWorker(new URL('./reactor-main.ts', import.meta.url), data, { name: `reactor ${cpu}` });
    this.caller = new Caller(worker, this.bell);
    let failure: Error | undefined;
    worker.on('error', (error) => {
      failure = error as Error;
    });
    let endGuard = () => {};
    worker.on('message', (message: AnswerMessage | ReadyMessage | SaveRequest) => {
      if ('ready' in message) {
        endGuard = guardThread(message.ready);
        ready();
      } else if ('save' in message) this.onSave(message.save);
      else this.caller.answered(message);
    });
    this.ended = new Promise((resolve) => {
      worker.on('exit', (code) => {
        endGuard();
        const error = failure ?? new Error(`the thread ended with code ${code}`);
        this.caller.fail(error);
        this.bell.close();
        ready(error);
        if (!this.ending) this.onFailure(error);
        resolve();
      });
    });
  }

  /** @throws Error when the thread can not be started or pinned */
  static start(cpu: number, options: ReactorOptions): Promise<WorkerReactor> {
    return new Promise((resolve, reject) => {
      let waiting = true;
      const reactor: WorkerReactor = new WorkerReactor(cpu, options, (error) => {
        if (!waiting) return;
        waiting = false;
        reactor.ending = error !== undefined;
        if (error === undefined) resolve(reactor);
        else reject(error);
      });
    });
  }

  call<K extends CommandName>(name: K, params: CommandParams<K>): Promise<CommandResult<K>> {
    if (name === 'shutdown') this.ending = true;
    return this.caller.call(name, params);
  }

  async close(): Promise<void> {
    this.ending = true;
    await this.ended;
  }
}

export function loopOptions({ poll, spinMicroseconds }: ReactorOptions): {
  alwaysPoll?: boolean;
  spinMicroseconds?: number;
} {
  return {
    ...(poll === undefined ? {} : { alwaysPoll: poll }),
    ...(spinMicroseconds === undefined ? {} : { spinMicroseconds }),
  };
}
