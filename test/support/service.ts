/** The target with its RPC socket in this process, and a client that writes whatever bytes it likes. */

import { mkdtempSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { RpcClient } from '../../src/rpc/client.ts';
import { DocumentSplitter, parseDocument, RESPONSE_LIMITS } from '../../src/rpc/document-splitter.ts';
import { Service, type ServiceOptions } from '../../src/rpc/service.ts';
import { tempDir } from './temp-dir.ts';

const root = tempDir();

export interface RunningService {
  service: Service;
  /** Of the controllers' sockets and of the RPC socket. */
  directory: string;
  rpcSocket: string;
  call(method: string, params?: Record<string, unknown>): Promise<unknown>;
  stop(): Promise<void>;
}

/** One reactor on this thread unless `options` say otherwise. */
export async function startService(options: Partial<ServiceOptions> = {}): Promise<RunningService> {
  const directory = options.directory ?? mkdtempSync(join(root, 'service-'));
  const rpcSocket = options.rpcSocket ?? join(directory, 'rpc.sock');
  const service = await Service.start({
    version: '1.2.3-test',
    directory,
    rpcSocket,
    singleThread: true,
    onShutDown: () => {},
    ...options,
  });
  const client = await RpcClient.connect(rpcSocket);
  return {
    service,
    directory,
    rpcSocket,
    call: (method, params) => client.call(method, params),
    stop: async () => {
      client.close();
      await service.stop();
    },
  };
}

/** The code and message of a call that fails. */
export async function failure(call: Promise<unknown>): Promise<{ code: number; message: string }> {
  try {
    const result = await call;
    return { code: 0, message: `succeeded: ${JSON.stringify(result)}` };
  } catch (error) {
    const { code, message } = error as { code: number; message: string };
    return { code, message };
  }
}

export class RawClient {
  readonly answers: unknown[] = [];
  /** The target has closed the connection. */
  closed = false;
  private readonly socket: Socket;
  private changed: () => void = () => {};

  private constructor(socket: Socket) {
    this.socket = socket;
    const splitter = new DocumentSplitter(RESPONSE_LIMITS, (d) => this.answers.push(parseDocument(d)));
    socket.on('data', (chunk) => {
      splitter.push(chunk);
      this.changed();
    });
    socket.on('error', () => {});
    const closed = () => {
      this.closed = true;
      this.changed();
    };
    socket.on('end', closed);
    socket.on('close', closed);
  }

  static connect(path: string): Promise<RawClient> {
    return new Promise((resolve, reject) => {
      const socket = connect({ path, allowHalfOpen: true }, () => resolve(new RawClient(socket)));
      socket.once('error', reject);
    });
  }

  write(bytes: string | Uint8Array): void {
    this.socket.write(bytes);
  }

  /** Shut down our side; the target may still answer. */
  end(): void {
    this.socket.end();
  }

  /** Wait for so many answers in all. @throws when the connection ends before */
  async wait(count: number): Promise<unknown[]> {
    while (this.answers.length < count) {
      if (this.closed) throw new Error(`closed after ${this.answers.length} of ${count} answers`);
      await new Promise<void>((resolve) => {
        this.changed = resolve;
      });
    }
    return this.answers;
  }

  async waitClosed(): Promise<unknown[]> {
    while (!this.closed) {
      await new Promise<void>((resolve) => {
        this.changed = resolve;
      });
    }
    return this.answers;
  }

  destroy(): void {
    this.socket.destroy();
  }
}
