import { type MessagePort, receiveMessageOnPort, type Worker } from 'node:worker_threads';
import type { EventLoop } from '../sys/event-loop.ts';
import type { EventFd } from '../sys/eventfd.ts';
import type {
  AnswerMessage,
  CommandMessage,
  CommandName,
  CommandParams,
  CommandResult,
  PlainError,
} from './commands.ts';
import { isErrnoName, TargetError } from './errors.ts';

/**
 * Commands to a reactor and their answers. A reactor sits in its own loop, where Node's message events do not fire: so a
 * command is a posted message and a bell (an eventfd that the loop watches). The way back needs no bell, because the
 * main thread lives in Node's event loop.
 */

/** How a reactor takes commands: `done` is called once, now or later. */
export type CommandHandler = (
  name: CommandName,
  params: never,
  done: (error: unknown, result?: unknown) => void,
) => void;

/** The reactor's end. */
export class Mailbox {
  private readonly port: MessagePort;
  private readonly bell: EventFd;
  private readonly handler: CommandHandler;

  constructor(port: MessagePort, bell: EventFd, loop: EventLoop, handler: CommandHandler) {
    this.port = port;
    this.bell = bell;
    this.handler = handler;
    loop.watch(bell.fd.number, () => this.receive());
  }

  private receive(): void {
    // Drain before looking: a bell after this is for a message that the loop below may or may not see already.
    this.bell.drain();
    for (let got = receiveMessageOnPort(this.port); got !== undefined; got = receiveMessageOnPort(this.port)) {
      this.execute(got.message as CommandMessage);
    }
  }

  private execute({ id, name, params }: CommandMessage): void {
    const done = (error: unknown, result?: unknown) => {
      const answer: AnswerMessage = error ? { id, error: plainError(error) } : { id, result };
      this.port.postMessage(answer);
    };
    try {
      this.handler(name, params as never, done);
    } catch (error) {
      done(error);
    }
  }
}

/** The main thread's end. */
export class Caller {
  private readonly worker: Pick<Worker, 'postMessage'>;
  private readonly bell: EventFd;
  private readonly pending = new Map<number, { resolve: (result: never) => void; reject: (error: Error) => void }>();
  private nextId = 1;
  private gone: Error | undefined;

  constructor(worker: Pick<Worker, 'postMessage'>, bell: EventFd) {
    this.worker = worker;
    this.bell = bell;
  }

  call<K extends CommandName>(name: K, params: CommandParams<K>): Promise<CommandResult<K>> {
    if (this.gone !== undefined) return Promise.reject(this.gone);
    return new Promise((resolve, reject) => {
      const message: CommandMessage = { id: this.nextId++, name, params };
      this.pending.set(message.id, { resolve, reject });
      this.worker.postMessage(message);
      this.bell.signal();
    });
  }

  answered(answer: AnswerMessage): void {
    const waiting = this.pending.get(answer.id);
    if (waiting === undefined) return;
    this.pending.delete(answer.id);
    if ('error' in answer) waiting.reject(revive(answer.error));
    else waiting.resolve(answer.result as never);
  }

  /** The reactor has ended: nothing is answered any more. */
  fail(error: Error): void {
    this.gone = error;
    for (const { reject } of this.pending.values()) reject(error);
    this.pending.clear();
  }
}

export function plainError(error: unknown): PlainError {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error) };
  const { code, errno } = error as { code?: unknown; errno?: unknown };
  return {
    name: error.name,
    message: error.message,
    ...(typeof code === 'string' ? { code } : {}),
    ...(typeof errno === 'number' ? { errno } : {}),
    ...(error.stack === undefined ? {} : { stack: error.stack }),
  };
}

export function revive(plain: PlainError): Error {
  if (isErrnoName(plain.code)) return new TargetError(plain.code, plain.message);
  const error = new Error(plain.message);
  error.name = plain.name;
  if (plain.stack !== undefined) error.stack = plain.stack;
  if (plain.errno !== undefined) (error as { errno?: number }).errno = plain.errno;
  return error;
}
