import { WorkBuffers } from '../scsi/work-buffers.ts';
import type { EventLoop } from '../sys/event-loop.ts';
import { enableLogs, logger } from '../sys/log.ts';
import type { CommandName, CommandParams, CommandResult, InflightRequest, SaveRequest } from './commands.ts';
import { TargetError } from './errors.ts';
import { ReactorBlkController } from './reactor-blk-controller.ts';
import { ReactorChannels } from './reactor-channels.ts';
import { ReactorController } from './reactor-controller.ts';
import type { ReactorDevice, ReactorParts } from './reactor-device.ts';
import { ReservationClient } from './reservation-client.ts';
import { SlowRequestWatch } from './slow-requests.ts';

/**
 * What a reactor owns and what it can be told to do. Runs wherever its event loop runs; callbacks only, no promises,
 * because a reactor's thread hardly ever returns to Node.
 */

const log = logger('reactor');

type Done<K extends CommandName> = (error: unknown, result?: CommandResult<K>) => void;
type Handlers = { [K in CommandName]: (params: CommandParams<K>, done: Done<K>) => void };

export class ReactorCore {
  private readonly loop: EventLoop;
  private readonly channels: ReactorChannels;
  private readonly parts: ReactorParts;
  private readonly controllers = new Map<string, ReactorDevice>();

  private readonly reservations: ReservationClient;

  /** @param send to the main thread; only needed for persistent targets */
  constructor(loop: EventLoop, send: (request: SaveRequest) => void = () => {}) {
    this.loop = loop;
    this.reservations = new ReservationClient(send);
    this.channels = new ReactorChannels(loop);
    this.parts = { loop, channels: this.channels, buffers: new WorkBuffers(), reservations: this.reservations };
    new SlowRequestWatch(loop, () => this.inflight());
  }

  /** @param done called once: now, later, or never when this throws */
  execute(name: CommandName, params: never, done: (error: unknown, result?: unknown) => void): void {
    if (log.enabled) log('%s %j', name, params);
    this.handlers[name](params, done);
  }

  private readonly handlers: Handlers = {
    openController: (params, done) => {
      const { disk } = params;
      const controller =
        disk === undefined
          ? new ReactorController(params, this.parts)
          : new ReactorBlkController(params, disk, this.parts);
      this.controllers.set(params.name, controller);
      done(undefined);
    },
    startController: ({ name }, done) => {
      this.controller(name).start();
      done(undefined);
    },
    closeController: ({ name, force }, done) => {
      const controller = this.controller(name);
      if (!force && controller.connected > 0) {
        throw new TargetError('EBUSY', `controller ${name} has a front end connected; stop that virtual machine first`);
      }
      this.controllers.delete(name);
      controller.close(() => done(undefined));
    },
    addTarget: (params, done) => {
      this.scsiController(params.controller).addTarget(params);
      done(undefined);
    },
    removeTarget: ({ controller, target }, done) => {
      this.scsiController(controller).removeTarget(target, () => done(undefined));
    },
    removeDisk: ({ controller: name }, done) => {
      const controller = this.controller(name);
      if (controller instanceof ReactorBlkController) controller.removeDisk(() => done(undefined));
      else throw new TargetError('EINVAL', `controller ${name} is no block controller`);
    },
    reservationsSaved: ({ id, ok }, done) => {
      this.reservations.saved(id, ok);
      done(undefined);
    },
    bdevRemoved: ({ name, uuid }, done) => {
      this.channels.removed(name, uuid);
      done(undefined);
    },
    bdevResized: (share, done) => {
      const disk = this.channels.find(share.info.name);
      if (disk !== undefined) {
        disk.channel.resized?.(share);
        for (const controller of this.controllers.values()) controller.capacityChanged(disk);
      }
      done(undefined);
    },
    bdevLimited: (share, done) => {
      const disk = this.channels.find(share.info.name);
      if (disk !== undefined) {
        this.channels.limit(disk, share);
        for (const controller of this.controllers.values()) controller.channelChanged(disk);
      }
      done(undefined);
    },
    setCoalescing: ({ name, ...settings }, done) => {
      this.controller(name).setCoalescing(settings);
      done(undefined);
    },
    describe: ({ name }, done) => done(undefined, { sessions: this.controller(name).sessions() }),
    dump: ({ name }, done) => done(undefined, this.controller(name).dump()),
    inflight: ({ olderThanMs }, done) => {
      done(
        undefined,
        this.inflight().filter((request) => request.age_ms >= olderThanMs),
      );
    },
    stats: (_, done) => {
      done(undefined, {
        ...this.loop.stats,
        heapUsed: process.memoryUsage().heapUsed,
        channels: [...this.channels.all()].map(({ name, channel, users }) => ({
          bdev: name,
          in_flight: channel.inFlight,
          luns: users,
          zero_copy: channel.zeroCopy,
        })),
      });
    },
    setLogs: ({ namespaces }, done) => {
      enableLogs(namespaces);
      done(undefined);
    },
    shutdown: (_, done) => {
      let left = this.controllers.size;
      if (left === 0) return done(undefined);
      for (const controller of this.controllers.values()) {
        controller.close(() => {
          if (--left === 0) done(undefined);
        });
      }
      this.controllers.clear();
    },
  };

  private inflight(): InflightRequest[] {
    return [...this.controllers.values()].flatMap((controller) => controller.inflight());
  }

  private controller(name: string): ReactorDevice {
    const controller = this.controllers.get(name);
    if (controller === undefined) throw new TargetError('ENODEV', `no controller is called ${name}`);
    return controller;
  }

  private scsiController(name: string): ReactorController {
    const controller = this.controller(name);
    if (controller instanceof ReactorController) return controller;
    throw new TargetError('EINVAL', `controller ${name} is no SCSI controller`);
  }
}
