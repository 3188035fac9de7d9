import type { ControlLoop } from '../../pci/control-loop.ts';
import type { Fd } from '../../sys/fd.ts';
import { connectUnix, recvWithFds, sendWithFds } from '../../sys/socket.ts';

/**
 * One connection to a vhost-user back end, from the front end's side: messages out, replies in, one question at a time. Everything that
 * comes is checked: a back end that says something else is hung up on.
 */

/** Requests of a front end, by the specification's names. */
export const UserMessage = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  SET_OWNER: 3,
  SET_MEM_TABLE: 5,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  SET_VRING_BASE: 10,
  SET_VRING_KICK: 12,
  SET_VRING_CALL: 13,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
} as const;
export type UserMessage = (typeof UserMessage)[keyof typeof UserMessage];

/** Bits of a message's flags: version 1, reply, reply wanted. */
const VERSION = 1;
const REPLY = 4;
const NEED_REPLY = 8;
const HEADER_BYTES = 12;
/** Every reply that we ask for is a u64. */
const REPLY_BYTES = 8;
/** How long a back end may take to answer. Milliseconds. */
const ANSWER_MS = 10_000;

interface Question {
  readonly id: number;
  resolve(value: bigint): void;
  reject(error: Error): void;
}

export class UserLink {
  readonly path: string;
  /** The back end has hung up, or we on it. */
  closed = false;
  /** Messages that need no reply are acknowledged all the same. */
  acknowledges = false;
  private readonly socket: Fd;
  private readonly loop: ControlLoop;
  private readonly watch: { close(): void };
  private readonly onLost: (reason: string) => void;
  private readonly incoming = new Uint8Array(HEADER_BYTES + REPLY_BYTES);
  private got = 0;
  private question: Question | null = null;

  /** @throws Error when nobody listens there */
  constructor(path: string, loop: ControlLoop, onLost: (reason: string) => void) {
    this.path = path;
    this.loop = loop;
    this.onLost = onLost;
    this.socket = connectUnix(path);
    this.watch = loop.watch(this.socket.number, () => this.read());
  }

  /** Tell something; resolves when it is sent, or acknowledged where the back end does that. */
  async tell(id: UserMessage, payload: Uint8Array = new Uint8Array(0), fds: readonly Fd[] = []): Promise<void> {
    if (!this.acknowledges) {
      this.send(id, VERSION, payload, fds);
      return;
    }
    const answer = await this.exchange(id, VERSION | NEED_REPLY, payload, fds);
    if (answer !== 0n) throw new Error(`${this.path}: the back end refused message ${id} (${answer})`);
  }

  /** Ask for a number. */
  ask(id: UserMessage): Promise<bigint> {
    return this.exchange(id, VERSION, new Uint8Array(0), []);
  }

  private exchange(id: UserMessage, flags: number, payload: Uint8Array, fds: readonly Fd[]): Promise<bigint> {
    if (this.question !== null) throw new Error(`${this.path}: two questions at once`);
    return new Promise<bigint>((resolve, reject) => {
      const timer = this.loop.after(ANSWER_MS, () => this.hangUp(`message ${id} was not answered in ${ANSWER_MS} ms`));
      const end = () => {
        timer.cancel();
        this.question = null;
      };
      this.question = {
        id,
        resolve: (value) => {
          end();
          resolve(value);
        },
        reject: (error) => {
          end();
          reject(error);
        },
      };
      try {
        this.send(id, flags, payload, fds);
      } catch (error) {
        this.question.reject(error as Error);
      }
    });
  }

  private send(id: UserMessage, flags: number, payload: Uint8Array, fds: readonly Fd[]): void {
    if (this.closed) throw new Error(`${this.path}: the back end has hung up`);
    const bytes = new Uint8Array(HEADER_BYTES + payload.length);
    const v = new DataView(bytes.buffer);
    v.setUint32(0, id, true);
    v.setUint32(4, flags, true);
    v.setUint32(8, payload.length, true);
    bytes.set(payload, HEADER_BYTES);
    // A few hundred bytes in all: a socket that takes less is not being read.
    if (sendWithFds(this.socket, bytes, fds) !== bytes.length) {
      throw new Error(`${this.path}: the back end does not read its messages`);
    }
  }

  private read(): void {
    while (!this.closed) {
      let bytes: number;
      try {
        bytes = recvWithFds(this.socket, this.incoming.subarray(this.got), 0).bytes;
      } catch (error) {
        this.hangUp((error as Error).message);
        return;
      }
      if (bytes < 0) return;
      if (bytes === 0) {
        this.hangUp('the back end has hung up');
        return;
      }
      this.got += bytes;
      if (this.got === this.incoming.length) this.take();
    }
  }

  private take(): void {
    this.got = 0;
    const v = new DataView(this.incoming.buffer);
    const [id, flags, size] = [v.getUint32(0, true), v.getUint32(4, true), v.getUint32(8, true)];
    const { question } = this;
    if (question === null || question.id !== id || flags !== (VERSION | REPLY) || size !== REPLY_BYTES) {
      const wanted = question === null ? 'nothing was asked' : `an answer to ${question.id} was expected`;
      this.hangUp(`the back end sent message ${id} with flags ${flags} and ${size} bytes; ${wanted}`);
      return;
    }
    question.resolve(v.getBigUint64(HEADER_BYTES, true));
  }

  private hangUp(reason: string): void {
    if (this.closed) return;
    this.close();
    const { question } = this;
    if (question !== null) question.reject(new Error(`${this.path}: ${reason}`));
    else this.onLost(reason);
  }

  /** Nobody is told. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.watch.close();
    this.socket.close();
  }
}
