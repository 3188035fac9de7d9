/**
 * The virtio SCSI device (virtio 1.2 §5.6) as a device model: queue 0 is control, queue 1 events, the rest requests.
 * Its config space is the front end's own, so there is none here.
 */
import { Waiting } from '../scsi/command.ts';
import { featureMask, hasFeature, VirtioFeature } from '../virtio/features.ts';
import { VirtioScsiEvent, VirtioScsiFeature, VirtioScsiQueue } from '../virtio/scsi-device.ts';
import type { DeviceModel, ModelQueue } from './device-model.ts';
import type { RunningRing } from './running-ring.ts';
import { ControlQueue } from './scsi-control-queue.ts';
import type { ScsiController, ScsiFrontEnd } from './scsi-controller.ts';
import { EventQueue } from './scsi-event-queue.ts';
import { RequestPool } from './scsi-request-pool.ts';
import { RequestQueue } from './scsi-request-queue.ts';

/** Vrings of a controller: control, events, and more request queues than any front end makes of its CPUs. */
const MAX_QUEUES = 128;

/** A request that a target has, for RPC. */
export interface BusyRequest {
  readonly vring: number;
  readonly head: number;
  readonly target: number;
  readonly lun: number;
  readonly cdb: Uint8Array;
  /** Reactor clock when it began, nanoseconds. */
  readonly started: number;
  /** Name of the command, or its operation code. */
  readonly opcode: string;
  /** What it waits for. */
  readonly where: 'disk' | 'turn';
}

export class ScsiModel implements DeviceModel, ScsiFrontEnd {
  readonly name = 'scsi';
  readonly features = featureMask(
    VirtioScsiFeature.HOTPLUG,
    VirtioScsiFeature.CHANGE,
    VirtioFeature.ANY_LAYOUT,
    VirtioFeature.INDIRECT_DESC,
    VirtioFeature.EVENT_IDX,
    VirtioFeature.VERSION_1,
  );
  readonly featureBits = VirtioScsiFeature;
  readonly maxQueues = MAX_QUEUES;
  readonly configBytes = 0;
  readonly nexus: number;

  private readonly controller: ScsiController;
  private readonly control: ControlQueue;
  private readonly events = new EventQueue();
  private readonly pool = new RequestPool();
  private readonly requests = new Map<number, RequestQueue>();
  private accepted = 0n;

  constructor(controller: ScsiController) {
    this.controller = controller;
    this.nexus = controller.attach(this);
    this.control = new ControlQueue(controller, this.nexus);
  }

  readConfig(): null {
    return null;
  }

  writeConfig(): string {
    return 'the config space of a SCSI device is the front end\u2019s own';
  }

  setFeatures(features: bigint): void {
    this.accepted = features;
  }

  startQueue(ring: RunningRing): ModelQueue {
    const queue = ring.index === VirtioScsiQueue.CONTROL ? this.control : this.queueAt(ring.index);
    queue.begin(ring);
    return queue;
  }

  private queueAt(index: number): EventQueue | RequestQueue {
    if (index === VirtioScsiQueue.EVENT) return this.events;
    let queue = this.requests.get(index);
    if (queue === undefined) {
      queue = new RequestQueue(index, this.controller, this.nexus, this.pool);
      this.requests.set(index, queue);
    }
    return queue;
  }

  event(event: number, target: number, lun: number, reason: number): void {
    const needs = event === VirtioScsiEvent.PARAM_CHANGE ? VirtioScsiFeature.CHANGE : VirtioScsiFeature.HOTPLUG;
    if (hasFeature(this.accepted, needs)) this.events.send(event, target, lun, reason);
  }

  /** What the targets are working on. */
  busy(): BusyRequest[] {
    const found: BusyRequest[] = [];
    for (const slot of this.pool.busy()) {
      const command = slot.command;
      found.push({
        vring: slot.home?.index ?? -1,
        head: slot.head,
        target: slot.entry?.id ?? -1,
        lun: slot.lun,
        cdb: slot.cdb.slice(),
        started: command?.started ?? 0,
        opcode: command?.row?.name ?? `0x${slot.cdb[0].toString(16)}`,
        where: command !== null && command.waiting !== Waiting.NOT ? 'turn' : 'disk',
      });
    }
    return found;
  }

  describe(): Record<string, unknown> {
    let [requests, express, badTargets] = [0, 0, 0];
    for (const queue of this.requests.values()) {
      requests += queue.requests;
      express += queue.express;
      badTargets += queue.badTargets;
    }
    return {
      nexus: this.nexus,
      requests,
      express,
      bad_targets: badTargets,
      task_management_functions: this.control.functions,
      events_sent: this.events.sent,
      events_lost: this.events.lost,
    };
  }

  close(): void {
    this.controller.detach(this.nexus);
  }
}
