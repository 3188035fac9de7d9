import { createServer, type Server, type Socket } from 'node:net';
import { logger } from '../sys/log.ts';
import { TargetError } from '../target/errors.ts';
import { Connection } from './connection.ts';
import type { Dispatcher } from './dispatcher.ts';
import { claimSocketPath } from './socket-path.ts';

/**
 * The RPC socket. Only its owner may use it: mode 0600 from the first moment on, not by a chmod afterwards.
 */

const log = logger('rpc');

const MAX_CLIENTS = 64;
/** How long the last answers may take, ms. */
const GRACE_MS = 1000;

export class RpcServer {
  private readonly server: Server;
  private readonly connections = new Set<Connection>();
  private readonly sockets = new Set<Socket>();
  private closed: Promise<void> = Promise.resolve();

  constructor(dispatcher: Dispatcher) {
    // Half open: a client may send its request, shut down its side and still read the answer.
    this.server = createServer({ allowHalfOpen: true }, (socket) => {
      const connection = new Connection(socket, dispatcher);
      this.connections.add(connection);
      this.sockets.add(socket);
      socket.on('close', () => {
        this.connections.delete(connection);
        this.sockets.delete(socket);
      });
    });
    this.server.maxConnections = MAX_CLIENTS;
  }

  /** @throws Error when the path can not be had; the message says why. */
  async listen(path: string): Promise<void> {
    await claimSocketPath(path);
    await new Promise<void>((resolve, reject) => {
      this.server.once('error', (error: NodeJS.ErrnoException) => reject(refusal(path, error)));
      // bind() happens inside listen(), so the mask covers exactly the creation of the file.
      const before = process.umask(0o177);
      try {
        this.server.listen(path, resolve);
      } finally {
        process.umask(before);
      }
    });
    log('listening at %s', path);
  }

  /** Take no new clients and remove the socket. Those who are connected are still answered. */
  stopListening(): void {
    if (!this.server.listening) return;
    this.closed = new Promise((resolve) => this.server.close(() => resolve()));
  }

  /** Give the answers that are under way a moment, then drop the clients. */
  async close(): Promise<void> {
    this.stopListening();
    const settled = Promise.all([...this.connections].map((connection) => connection.settled()));
    let timer: NodeJS.Timeout | undefined;
    await Promise.race([
      settled,
      new Promise((resolve) => {
        timer = setTimeout(resolve, GRACE_MS);
      }),
    ]);
    clearTimeout(timer);
    for (const socket of this.sockets) socket.destroySoon();
    await this.closed;
  }
}

function refusal(path: string, error: NodeJS.ErrnoException): Error {
  if (error.code === 'EACCES') {
    return new TargetError('EACCES', `RPC socket ${path}: permission denied; choose a path in a folder of yours (-r)`);
  }
  if (error.code === 'ENOENT') {
    return new TargetError(
      'ENOENT',
      `RPC socket ${path}: its folder does not exist; make it or choose another path (-r)`,
    );
  }
  return error;
}
