import type { Socket } from 'node:net';
import { createJSONRPCErrorResponse } from 'json-rpc-2.0';
import { logger } from '../sys/log.ts';
import type { Dispatcher } from './dispatcher.ts';
import { DocumentSplitter, parseDocument, REQUEST_LIMITS } from './document-splitter.ts';
import { RpcCode } from './errors.ts';

/**
 * One client's connection: documents in, answers out, strictly in order. A stream that is no JSON is answered with a
 * parse error and closed, since nobody knows where its next document would begin.
 */

const log = logger('rpc');

/** Requests waiting in one connection before we stop reading from it. */
const MAX_WAITING = 64;

/** How long a client may take to read why it is hung up on. */
const LAST_WORDS_MS = 1000;

export class Connection {
  private readonly socket: Socket;
  private readonly dispatcher: Dispatcher;
  private readonly splitter: DocumentSplitter;
  private readonly waiting: Uint8Array[] = [];
  private running: Promise<void> | undefined;
  private broken: string | undefined;
  private ended = false;

  constructor(socket: Socket, dispatcher: Dispatcher) {
    this.socket = socket;
    this.dispatcher = dispatcher;
    this.splitter = new DocumentSplitter(REQUEST_LIMITS, (document) => this.waiting.push(document));
    socket.on('data', (chunk) => this.received(chunk));
    socket.on('end', () => {
      this.ended = true;
      this.wake();
    });
    socket.on('error', (error) => log('connection: %s', error.message));
  }

  /** Resolves when what was received is answered. */
  async settled(): Promise<void> {
    await this.running;
  }

  private received(chunk: Buffer): void {
    if (this.broken !== undefined) return;
    this.broken = this.splitter.push(chunk);
    if (this.broken === undefined && this.waiting.length > MAX_WAITING) this.socket.pause();
    this.wake();
  }

  private wake(): void {
    this.running ??= this.answerAll().finally(() => {
      this.running = undefined;
    });
  }

  private async answerAll(): Promise<void> {
    for (let next = this.waiting.shift(); next !== undefined; next = this.waiting.shift()) {
      let document: unknown;
      try {
        document = parseDocument(next);
      } catch (error) {
        this.broken = (error as Error).message;
        this.waiting.length = 0;
        break;
      }
      const answer = await this.dispatcher.receive(document);
      if (this.socket.destroyed) return;
      if (answer !== undefined) await this.send(answer);
      if (this.broken === undefined && this.waiting.length <= MAX_WAITING) this.socket.resume();
    }
    if (this.broken !== undefined) {
      await this.send(createJSONRPCErrorResponse(null, RpcCode.PARSE_ERROR, `Parse error: ${this.broken}`));
      this.hangUp();
    } else if (this.ended) {
      this.socket.end();
    }
  }

  /**
   * Close, but let the client read why: closing with bytes of its unread would reset the connection and take our last
   * words with it. So the rest of its stream is read and dropped, for a short while.
   */
  private hangUp(): void {
    const { socket } = this;
    socket.resume();
    socket.end();
    const timer = setTimeout(() => socket.destroy(), LAST_WORDS_MS);
    socket.once('close', () => clearTimeout(timer));
  }

  /** Write one answer; waits while the client does not read, so that a lazy client holds up only itself. */
  private send(answer: unknown): Promise<void> {
    const { socket } = this;
    return new Promise((resolve) => {
      if (socket.destroyed) return resolve();
      if (socket.write(`${JSON.stringify(answer)}\n`)) return resolve();
      const done = () => {
        socket.off('drain', done);
        socket.off('close', done);
        resolve();
      };
      socket.on('drain', done);
      socket.on('close', done);
    });
  }
}
