import { EventLoop } from '../sys/event-loop.ts';
import type { CommandName, CommandParams, CommandResult, SaveRequest } from './commands.ts';
import { plainError, revive } from './mailbox.ts';
import { loopOptions, type Reactor, type ReactorOptions } from './reactor.ts';
import { ReactorCore } from './reactor-core.ts';

/** A reactor on this thread, beside Node's event loop: one thread to debug. Who makes it guards that thread against stalls. */
export class LocalReactor implements Reactor {
  readonly cpu: number;
  onFailure: (error: Error) => void = () => {};
  onSave: (request: SaveRequest['save']) => void = () => {};
  private readonly loop: EventLoop;
  private readonly core: ReactorCore;

  constructor(cpu: number, options: ReactorOptions) {
    this.cpu = cpu;
    this.loop = new EventLoop(loopOptions(options));
    this.core = new ReactorCore(this.loop, (request) => this.onSave(structuredClone(request.save)));
    this.loop.attach();
  }

  call<K extends CommandName>(name: K, params: CommandParams<K>): Promise<CommandResult<K>> {
    // Cloned as on the way to a worker, so that nothing is shared that would not be shared there.
    const copy = structuredClone(params);
    return new Promise((resolve, reject) => {
      const done = (error: unknown, result?: unknown) => {
        if (error) reject(revive(plainError(error)));
        else resolve(result as CommandResult<K>);
      };
      // In a pass of its own, as on a worker: no command runs within another's handler.
      this.loop.defer(() => {
        try {
          this.core.execute(name, copy as never, done);
        } catch (error) {
          done(error);
        }
      });
    });
  }

  async close(): Promise<void> {
    this.loop.close();
  }
}
