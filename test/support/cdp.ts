/**
 * A client of the V8 inspector, just large enough for tests: a WebSocket over a plain socket (Node 20 has no WebSocket
 * of its own), commands with their answers, and events to wait for.
 */
import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';

export interface CdpEvent {
  method: string;
  // biome-ignore lint/suspicious/noExplicitAny: the protocol's own shapes, read by the tests
  params: any;
}

const OP_TEXT = 1;
const OP_CLOSE = 8;
const OP_PING = 9;
const OP_PONG = 10;

export class CdpClient {
  private readonly socket: Socket;
  private received: Buffer = Buffer.alloc(0);
  private fragments: Buffer[] = [];
  private nextId = 1;
  private readonly answers = new Map<number, (message: { result?: unknown; error?: { message: string } }) => void>();
  private readonly events: CdpEvent[] = [];
  /** Script id to URL, of all that were parsed. */
  readonly scripts = new Map<string, string>();
  private readonly watchers = new Set<(event: CdpEvent) => void>();

  private constructor(socket: Socket, rest: Buffer) {
    this.socket = socket;
    socket.on('data', (chunk) => this.data(chunk));
    this.data(rest);
  }

  /** @param url ws://host:port/path as Node prints it */
  static connect(url: string): Promise<CdpClient> {
    const { hostname, port, pathname } = new URL(url);
    return new Promise((resolve, reject) => {
      const socket = connect(Number(port), hostname);
      socket.on('error', reject);
      socket.write(
        `GET ${pathname} HTTP/1.1\r\nHost: ${hostname}:${port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
          `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
      );
      let head = Buffer.alloc(0);
      const read = (chunk: Buffer) => {
        head = Buffer.concat([head, chunk]);
        const end = head.indexOf('\r\n\r\n');
        if (end < 0) return;
        socket.off('data', read);
        const status = head.toString('latin1', 0, head.indexOf('\r\n'));
        if (/ 101 /.test(status)) resolve(new CdpClient(socket, head.subarray(end + 4)));
        else reject(new Error(`no WebSocket: ${status}`));
      };
      socket.on('data', read);
    });
  }

  // biome-ignore lint/suspicious/noExplicitAny: as above
  send(method: string, params: Record<string, unknown> = {}): Promise<any> {
    const id = this.nextId++;
    this.frame(OP_TEXT, Buffer.from(JSON.stringify({ id, method, params })));
    return new Promise((resolve, reject) => {
      this.answers.set(id, ({ result, error }) => {
        if (error === undefined) resolve(result);
        else reject(new Error(`${method}: ${error.message}`));
      });
    });
  }

  /** The first event, past or future, that `is` accepts. */
  event(method: string, is: (params: CdpEvent['params']) => boolean = () => true): Promise<CdpEvent['params']> {
    const past = this.events.find((e) => e.method === method && is(e.params));
    if (past !== undefined) return Promise.resolve(past.params);
    return new Promise((resolve) => {
      const watcher = (e: CdpEvent) => {
        if (e.method !== method || !is(e.params)) return;
        this.watchers.delete(watcher);
        resolve(e.params);
      };
      this.watchers.add(watcher);
    });
  }

  /** Forget past events, so that `event` waits for a new one. */
  forget(): void {
    this.events.length = 0;
  }

  close(): void {
    this.socket.destroy();
  }

  /** RFC 6455 5.2: a client masks what it sends. */
  private frame(opcode: number, payload: Buffer): void {
    const mask = randomBytes(4);
    const header = Buffer.alloc(payload.length < 126 ? 2 : payload.length < 65536 ? 4 : 10);
    header[0] = 0x80 | opcode;
    if (header.length === 2) header[1] = 0x80 | payload.length;
    else if (header.length === 4) {
      header[1] = 0x80 | 126;
      header.writeUInt16BE(payload.length, 2);
    } else {
      header[1] = 0x80 | 127;
      header.writeBigUInt64BE(BigInt(payload.length), 2);
    }
    this.socket.write(Buffer.concat([header, mask, payload.map((byte, i) => byte ^ mask[i & 3])]));
  }

  private data(chunk: Buffer): void {
    this.received = Buffer.concat([this.received, chunk]);
    for (;;) {
      const b = this.received;
      if (b.length < 2) return;
      let length = b[1] & 0x7f;
      let at = 2;
      if (length === 126) {
        if (b.length < 4) return;
        length = b.readUInt16BE(2);
        at = 4;
      } else if (length === 127) {
        if (b.length < 10) return;
        length = Number(b.readBigUInt64BE(2));
        at = 10;
      }
      if (b.length < at + length) return;
      this.received = b.subarray(at + length);
      this.frameReceived(b[0], b.subarray(at, at + length));
    }
  }

  private frameReceived(first: number, payload: Buffer): void {
    const opcode = first & 0x0f;
    if (opcode === OP_PING) this.frame(OP_PONG, payload);
    if (opcode >= OP_CLOSE) return;
    this.fragments.push(payload);
    if ((first & 0x80) === 0) return;
    const text = Buffer.concat(this.fragments).toString();
    this.fragments = [];
    const message = JSON.parse(text);
    if (message.id !== undefined) {
      this.answers.get(message.id)?.(message);
      this.answers.delete(message.id);
      return;
    }
    if (message.method === 'Debugger.scriptParsed') this.scripts.set(message.params.scriptId, message.params.url);
    this.events.push(message);
    for (const watcher of [...this.watchers]) watcher(message);
  }
}
