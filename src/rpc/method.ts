import type { z } from 'zod';
import type { Target } from '../target/target.ts';

/**
 * One method of the RPC interface is one row: its names, parameters, result and handler. Everything else (parsing,
 * errors, rpc_get_methods, docs/rpc.md, the command line's check of names) comes from the rows.
 */

/** Before framework_start_init (only with --wait-for-rpc), after it, or both. */
export type MethodStates = 'startup' | 'runtime' | 'any';

/** What a handler may use beside the target: the process around it. */
export interface RpcContext {
  readonly target: Target;
  readonly methods: MethodTable;
  readonly app: App;
}

/** The running program, as the RPCs see it. */
export interface App {
  readonly version: string;
  /** false between the start with --wait-for-rpc and framework_start_init. */
  readonly initialized: boolean;
  /** The configuration is being loaded: calls wait for it. */
  readonly initializing: boolean;
  /** Load what the command line named and go on; resolves when the target serves. */
  startInit(): Promise<void>;
  /** Resolves when {@link initialized} is true. */
  waitInit(): Promise<void>;
  /** Start the orderly end; returns at once. */
  shutDown(reason: string): void;
}

export interface Method {
  /** Modern name first, then the older ones. */
  readonly names: readonly [string, ...string[]];
  readonly summary: string;
  readonly params: z.ZodObject;
  /** What the result is, for the documentation. */
  readonly result: string;
  readonly states: MethodStates;
  /** It changes what save_config would write. */
  readonly changesConfig: boolean;
  /** It may stand in a configuration. */
  readonly inConfig: boolean;
  readonly handler: (params: never, context: RpcContext) => unknown;
}

interface Row<S extends z.ZodObject> {
  names: readonly [string, ...string[]];
  summary: string;
  params: S;
  result: string;
  states?: MethodStates;
  changesConfig?: boolean;
  /** Default: where it changes the configuration. */
  inConfig?: boolean;
  handler: (params: z.output<S>, context: RpcContext) => unknown;
}

/** A row, with its handler's parameters typed by its schema. */
export function method<S extends z.ZodObject>(row: Row<S>): Method {
  return { states: 'runtime', changesConfig: false, inConfig: row.changesConfig ?? false, ...row };
}

/** All rows by each of their names. */
export class MethodTable {
  readonly rows: readonly Method[];
  private readonly byName = new Map<string, Method>();

  constructor(rows: readonly Method[]) {
    this.rows = rows;
    for (const row of rows) {
      for (const name of row.names) {
        if (this.byName.has(name)) throw new Error(`two RPC methods are called ${name}`);
        this.byName.set(name, row);
      }
    }
  }

  get(name: string): Method | undefined {
    return this.byName.get(name);
  }

  get names(): IterableIterator<string> {
    return this.byName.keys();
  }
}
