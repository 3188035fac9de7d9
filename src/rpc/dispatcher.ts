import { createJSONRPCErrorResponse, type JSONRPCResponse, JSONRPCServer } from 'json-rpc-2.0';
import { logger } from '../sys/log.ts';
import { errorBody, RpcCode, RpcError } from './errors.ts';
import type { Method, MethodTable, RpcContext } from './method.ts';
import { parseParams } from './params.ts';
import { nearest } from './suggest.ts';

/**
 * From a parsed document to its answer: requests, notifications and batches, in the order they came. Knows nothing of
 * sockets. Never throws and never rejects: whatever is wrong is in the answer.
 */

const log = logger('rpc');

/** Requests in one batch; a target has nothing to do with more at once. */
const MAX_BATCH = 256;

export class Dispatcher {
  private readonly server: JSONRPCServer<void>;
  private readonly context: RpcContext;
  /** Called after each call that may have changed the configuration. What it throws is the answer to a call that has succeeded. */
  onConfigChange: () => void = () => {};

  constructor(context: RpcContext) {
    this.context = context;
    this.server = new JSONRPCServer({ errorListener: (message, error) => log('%s %O', message, error) });
    this.server.mapErrorToJSONRPCErrorResponse = (id, error) => {
      const { code, message } = errorBody(error);
      return createJSONRPCErrorResponse(id, code, message);
    };
    for (const name of context.methods.names) {
      const row = context.methods.get(name) as Method;
      this.server.addMethod(name, (params) => this.call(row, name, params));
    }
  }

  /** @returns the answer (an array for a batch), or undefined when nothing is to be answered. */
  async receive(document: unknown): Promise<JSONRPCResponse | JSONRPCResponse[] | undefined> {
    if (!Array.isArray(document)) return this.receiveOne(document);
    if (document.length === 0) return invalidRequest(null, 'a batch without a request');
    if (document.length > MAX_BATCH) return invalidRequest(null, `a batch of more than ${MAX_BATCH} requests`);
    const answers: JSONRPCResponse[] = [];
    for (const request of document) {
      const answer = await this.receiveOne(request);
      if (answer !== undefined) answers.push(answer);
    }
    return answers.length > 0 ? answers : undefined;
  }

  private async receiveOne(request: unknown): Promise<JSONRPCResponse | undefined> {
    if (typeof request !== 'object' || request === null || Array.isArray(request)) {
      return invalidRequest(null, 'a request is an object');
    }
    const { jsonrpc = '2.0', method, params, id } = request as Record<string, unknown>;
    if (id !== undefined && id !== null && typeof id !== 'string' && typeof id !== 'number') {
      return invalidRequest(null, '"id" must be a text, a number or null');
    }
    if (jsonrpc !== '2.0') return invalidRequest(id ?? null, '"jsonrpc" must be "2.0"');
    if (typeof method !== 'string') return invalidRequest(id ?? null, '"method" must be a text');
    if (this.context.methods.get(method) === undefined) {
      return id === undefined ? undefined : methodNotFound(id, method, this.context.methods);
    }
    const answer = await this.server.receive({ jsonrpc: '2.0', method, params, ...(id === undefined ? {} : { id }) });
    return answer ?? undefined;
  }

  private async call(row: Method, name: string, raw: unknown): Promise<unknown> {
    log('%s %j', name, raw);
    const params = parseParams(row, name, raw);
    if (row.states !== 'any' && this.context.app.initializing) await this.context.app.waitInit();
    this.checkState(row, name);
    let result: unknown;
    try {
      result = await row.handler(params as never, this.context);
    } catch (error) {
      if (row.changesConfig) this.changedPerhaps();
      throw error;
    }
    if (row.changesConfig) this.onConfigChange();
    return result;
  }

  /** load_config keeps what it made until it failed. Its own failure is the answer. */
  private changedPerhaps(): void {
    try {
      this.onConfigChange();
    } catch (error) {
      log.warn((error as Error).message);
    }
  }

  private checkState(row: Method, name: string): void {
    if (row.states === 'any' || (row.states === 'runtime') === this.context.app.initialized) return;
    throw new RpcError(
      RpcCode.INVALID_STATE,
      row.states === 'runtime'
        ? `${name} may only be called after the framework is initialized: call framework_start_init first`
        : `${name} may only be called before the framework is initialized: start the target with --wait-for-rpc`,
    );
  }
}

function invalidRequest(id: string | number | null, why: string): JSONRPCResponse {
  return createJSONRPCErrorResponse(id, RpcCode.INVALID_REQUEST, `Invalid request: ${why}`);
}

function methodNotFound(id: string | number | null, name: string, methods: MethodTable): JSONRPCResponse {
  const near = nearest(name, methods.names);
  const shown = name.length > 80 ? `${name.slice(0, 80)}...` : name;
  const hint = near === undefined ? 'rpc_get_methods lists them' : `did you mean ${near}?`;
  return createJSONRPCErrorResponse(id, RpcCode.METHOD_NOT_FOUND, `Method not found: ${shown}; ${hint}`);
}
