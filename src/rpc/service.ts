import { resolve } from 'node:path';
import { logger } from '../sys/log.ts';
import { isErrnoName, TargetError } from '../target/errors.ts';
import { readFileIfThere } from '../target/state-file.ts';
import { Target, type TargetOptions } from '../target/target.ts';
import { applyConfig, saveConfig } from './config.ts';
import { Dispatcher } from './dispatcher.ts';
import { RpcError } from './errors.ts';
import type { App, RpcContext } from './method.ts';
import { type Config, configSchema } from './methods/config.ts';
import { methodTable } from './methods/table.ts';
import { RpcServer } from './server.ts';
import { StateKeeper } from './state-keeper.ts';

/**
 * The target with its RPC socket, from start to end: what `vvu-target` runs. One order: the socket is ours before
 * anything is made, and gone before anything is taken down.
 */

const log = logger('rpc');

export interface ServiceOptions extends TargetOptions {
  version: string;
  rpcSocket: string;
  /** Configuration to load at the start. */
  config?: string | undefined;
  /** Configuration that is kept up to date by us; loaded instead of `config` once it is there. */
  stateFile?: string | undefined;
  /** A configuration to make beside that of the file; its words in failures come from `name`. */
  extra?: { name: string; config: Config } | undefined;
  /** Make nothing before framework_start_init. */
  waitForRpc?: boolean | undefined;
  /** An RPC asked for the end. */
  onShutDown: (reason: string) => void;
}

export class Service implements App {
  readonly version: string;
  readonly target: Target;
  private readonly options: ServiceOptions;
  private readonly context: RpcContext;
  private readonly dispatcher: Dispatcher;
  private readonly server: RpcServer;
  private state: 'startup' | 'initializing' | 'runtime' = 'startup';
  private readonly ready: Promise<void>;
  private readonly becomeReady: () => void;
  private readonly keeper: StateKeeper | undefined;

  private constructor(options: ServiceOptions, target: Target) {
    this.options = options;
    this.version = options.version;
    this.target = target;
    this.context = { target, methods: methodTable, app: this };
    this.dispatcher = new Dispatcher(this.context);
    const { stateFile } = options;
    if (stateFile !== undefined) this.keeper = new StateKeeper(stateFile, () => saveConfig(target));
    this.dispatcher.onConfigChange = () => {
      if (this.state === 'runtime') this.keeper?.save();
    };
    this.server = new RpcServer(this.dispatcher);
    let becomeReady = () => {};
    this.ready = new Promise((resolve) => {
      becomeReady = resolve;
    });
    this.becomeReady = becomeReady;
  }

  /**
   * Start reactors and the RPC socket, then load the configuration unless `waitForRpc`.
   * @param starting the target, by `Target.start` with the same options: for who has begun with it already
   * @throws Error for the operator; nothing is left behind then
   */
  static async start(options: ServiceOptions, starting = Target.start(options)): Promise<Service> {
    const target = await starting;
    const service = new Service(options, target);
    try {
      if (!options.waitForRpc) service.state = 'initializing';
      await service.server.listen(options.rpcSocket);
      if (!options.waitForRpc) await service.startInit();
      return service;
    } catch (error) {
      await service.stop();
      throw error;
    }
  }

  get initialized(): boolean {
    return this.state === 'runtime';
  }

  get initializing(): boolean {
    return this.state === 'initializing';
  }

  async startInit(): Promise<void> {
    this.state = 'initializing';
    try {
      // A file that was there before says that it can be written, as a rule: disks go into service whatever it is now.
      if (await this.loadFiles()) this.keeper?.saveOrWarn();
      else this.keeper?.create();
    } catch (error) {
      this.state = 'startup';
      throw error;
    }
    this.state = 'runtime';
    this.becomeReady();
  }

  waitInit(): Promise<void> {
    return this.ready;
  }

  shutDown(reason: string): void {
    this.options.onShutDown(reason);
  }

  /** Remove the RPC socket, drain and end the target, finish the answers. */
  async stop(): Promise<void> {
    this.server.stopListening();
    if (this.state === 'runtime') this.keeper?.finish();
    else this.keeper?.close();
    await this.target.stop();
    await this.server.close();
  }

  /** @returns whether there was a state file */
  private async loadFiles(): Promise<boolean> {
    const { config, extra } = this.options;
    const state = this.keeper?.read();
    if (state !== undefined) await this.load(state, this.keeper?.path as string);
    else if (config !== undefined) await this.load(readConfig(config), config);
    if (extra !== undefined) await applyConfig(extra.config, this.context, () => extra.name);
    return state !== undefined;
  }

  private async load(text: string, path: string): Promise<void> {
    let parsed: ReturnType<typeof configSchema.safeParse>;
    try {
      parsed = configSchema.safeParse(JSON.parse(text));
    } catch (error) {
      throw new TargetError('EINVAL', `${path} is no JSON: ${(error as Error).message}`);
    }
    if (!parsed.success) {
      const issue = parsed.error.issues[0];
      throw new TargetError(
        'EINVAL',
        `${path}: ${issue.path.join('.') || 'the whole'}: ${issue.message}; save_config shows the form`,
      );
    }
    log('loading %s', resolve(path));
    try {
      await applyConfig(parsed.data, this.context);
    } catch (error) {
      if (error instanceof RpcError) throw new RpcError(error.code, `${path}: ${error.message}`);
      throw error;
    }
  }
}

function readConfig(path: string): string {
  let text: string | undefined;
  try {
    text = readFileIfThere(path);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new TargetError(
      isErrnoName(code) ? code : 'EINVAL',
      `configuration ${path}: ${message}; name a file that can be read (-c)`,
    );
  }
  if (text === undefined) throw new TargetError('ENOENT', `configuration ${path}: there is no such file`);
  return text;
}
