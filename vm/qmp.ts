/**
 * QEMU's control socket (QMP: JSON documents, one a line). Commands are answered in order; events come in between and
 * are kept, so that one that came early can still be waited for.
 */
import type { Socket } from 'node:net';
import { eachLine } from './one-connection.ts';

export interface QmpEvent {
  event: string;
  data?: Record<string, unknown>;
}

interface Waiter {
  matches: (event: QmpEvent) => boolean;
  resolve: (event: QmpEvent) => void;
}

interface Call {
  name: string;
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
}

export class Qmp {
  readonly events: QmpEvent[] = [];
  readonly #socket: Socket;
  readonly #calls: Call[] = [];
  readonly #waiters = new Set<Waiter>();
  #closed = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    eachLine(socket, (line) => this.#receive(JSON.parse(line)));
    socket.once('close', () => {
      this.#closed = true;
      for (const call of this.#calls.splice(0)) call.reject(new Error(`QEMU ended before it answered ${call.name}`));
    });
  }

  /** Takes over a fresh connection and leaves its negotiation mode. */
  static async open(socket: Socket): Promise<Qmp> {
    const qmp = new Qmp(socket);
    await qmp.execute('qmp_capabilities');
    return qmp;
  }

  /** Sends a command; resolves to its `return` member. Throws QEMU's description of what is wrong. */
  execute(name: string, args: Record<string, unknown> = {}): Promise<unknown> {
    if (this.#closed) return Promise.reject(new Error(`QEMU has ended, cannot ${name}`));
    return new Promise((resolve, reject) => {
      this.#calls.push({ name, resolve, reject });
      this.#socket.write(`${JSON.stringify({ execute: name, arguments: args })}\n`);
    });
  }

  /** The first event that matches, past or future. */
  event(matches: (event: QmpEvent) => boolean, timeoutSeconds = 60): Promise<QmpEvent> {
    const past = this.events.find(matches);
    if (past !== undefined) return Promise.resolve(past);
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        matches,
        resolve: (event) => {
          clearTimeout(timer);
          this.#waiters.delete(waiter);
          resolve(event);
        },
      };
      const timer = setTimeout(() => {
        this.#waiters.delete(waiter);
        const seen = this.events.map((e) => e.event).join(', ');
        reject(new Error(`QEMU did not send the event within ${timeoutSeconds} s; it sent: ${seen || 'none'}`));
      }, timeoutSeconds * 1000);
      this.#waiters.add(waiter);
    });
  }

  /** A command of the human monitor, for what QMP has no command for. */
  async human(command: string): Promise<string> {
    return String(await this.execute('human-monitor-command', { 'command-line': command }));
  }

  #receive(message: QmpEvent & { return?: unknown; error?: { desc: string } }): void {
    if (message.event !== undefined) {
      this.events.push(message);
      for (const waiter of [...this.#waiters]) if (waiter.matches(message)) waiter.resolve(message);
    } else if (message.error !== undefined) {
      const call = this.#calls.shift();
      call?.reject(new Error(`QMP ${call.name}: ${message.error.desc}`));
    } else if ('return' in message) this.#calls.shift()?.resolve(message.return);
  }
}
