/**
 * A Unix socket that waits for one peer. QEMU is given the path as a client, so it is connected before its first
 * instruction and nothing that is said early gets lost.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

export class OneConnection {
  readonly socket: Promise<Socket>;
  readonly #server: Server;
  #peer: Socket | undefined;

  private constructor(server: Server) {
    this.#server = server;
    this.socket = new Promise((resolve) => {
      server.once('connection', (socket) => {
        this.#peer = socket;
        // The peer's death shows as its process's end; a write that meets it is no error of its own.
        socket.on('error', () => {});
        server.close();
        resolve(socket);
      });
    });
  }

  static listen(path: string): Promise<OneConnection> {
    const server = createServer();
    return new Promise((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, () => resolve(new OneConnection(server)));
    });
  }

  close(): void {
    this.#server.close();
    this.#peer?.destroy();
  }
}

/** Calls back at each line that a peer sends. Its end, however rude, only ends the lines. */
export function eachLine(socket: Socket, found: (line: string) => void): void {
  const lines = createInterface({ input: socket });
  lines.on('line', found);
  lines.on('error', () => lines.close());
}
