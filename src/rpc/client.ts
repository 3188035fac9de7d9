import { connect, type Socket } from 'node:net';
import { isJSONRPCResponse, JSONRPCClient, type JSONRPCResponse } from 'json-rpc-2.0';
import { DocumentSplitter, parseDocument, RESPONSE_LIMITS } from './document-splitter.ts';
import { RpcError } from './errors.ts';

/** A client of the RPC socket, for the command line and the tests. Works against SPDK's targets too. */

export class RpcClient {
  private readonly socket: Socket;
  private readonly client: JSONRPCClient;
  private gone: Error | undefined;

  private constructor(socket: Socket) {
    this.socket = socket;
    this.client = new JSONRPCClient(async (request) => {
      if (this.gone !== undefined) throw this.gone;
      socket.write(JSON.stringify(request));
    });
    const splitter = new DocumentSplitter(RESPONSE_LIMITS, (document) => {
      const answer = parseDocument(document);
      if (isJSONRPCResponse(answer)) this.client.receive(answer as JSONRPCResponse);
    });
    socket.on('data', (chunk) => {
      try {
        const wrong = splitter.push(chunk);
        if (wrong !== undefined) socket.destroy(new Error(`the answer is no JSON-RPC: ${wrong}`));
      } catch (error) {
        socket.destroy(new Error(`the answer is no JSON-RPC: ${(error as Error).message}`));
      }
    });
    socket.on('error', (error) => this.fail(error));
    socket.on('close', () => this.fail(new Error('the target closed the connection')));
  }

  /** @throws Error with `code` ENOENT or ECONNREFUSED when nobody listens at `path`. */
  static connect(path: string): Promise<RpcClient> {
    return new Promise((resolve, reject) => {
      const socket = connect(path);
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(new RpcClient(socket));
      });
    });
  }

  /**
   * @param timeoutMs give up after this long; without it, wait as long as the target takes
   * @returns the result. @throws RpcError with the target's code and message.
   */
  async call(method: string, params?: Record<string, unknown>, timeoutMs?: number): Promise<unknown> {
    const client = timeoutMs === undefined ? this.client : this.client.timeout(timeoutMs);
    try {
      return await client.request(method, params);
    } catch (error) {
      if (this.gone !== undefined) throw this.gone;
      const { code, message } = error as { code?: unknown; message: string };
      throw typeof code === 'number' ? new RpcError(code, message) : error;
    }
  }

  close(): void {
    this.socket.destroy();
  }

  private fail(error: Error): void {
    if (this.gone !== undefined) return;
    this.gone = error;
    this.client.rejectAllPendingRequests(error.message);
  }
}
