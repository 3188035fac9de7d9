/**
 * The control queue of the virtio SCSI device (virtio 1.2 §5.6.6.2): task management, and the asynchronous
 * notifications that nobody has. Rare, so it may allocate; hostile as every queue, so it copies before it parses.
 */
import { Memory } from '../memory/memory.ts';
import { SgList } from '../memory/sg-list.ts';
import { type Tmf, TmfResponse } from '../scsi/task-management.ts';
import { VIRTIO_SCSI_TMF, VirtioScsiControl, VirtioScsiResponse } from '../virtio/scsi-device.ts';
import type { ModelQueue } from './device-model.ts';
import type { RunningRing } from './running-ring.ts';
import type { ScsiController } from './scsi-controller.ts';
import { AN_REQUEST, AN_RESPONSE_BYTES, flatLun, MAX_TARGETS, RESPONSE_OF_TMF } from './scsi-wire.ts';

/** A control request may lie in as many pieces as it has bytes. */
const PIECES = 32;

export class ControlQueue implements ModelQueue {
  /** Task management functions asked for. */
  functions = 0;
  private readonly controller: ScsiController;
  private readonly nexus: number;
  private ring!: RunningRing;
  private readonly request = new Memory(new ArrayBuffer(VIRTIO_SCSI_TMF.size));
  private readonly answer = new Memory(new ArrayBuffer(8));

  constructor(controller: ScsiController, nexus: number) {
    this.controller = controller;
    this.nexus = nexus;
  }

  begin(ring: RunningRing): void {
    this.ring = ring;
  }

  poll(budget: number): number {
    let n = 0;
    for (let head = this.ring.next(); head >= 0; head = this.ring.next()) {
      this.take(head);
      if (++n === budget) break;
    }
    return n;
  }

  private take(head: number): void {
    const out = new SgList(4, PIECES);
    const into = new SgList(4, PIECES);
    if (!this.ring.read(head, out, into)) return;
    const got = out.gather(0, this.request, 0, VIRTIO_SCSI_TMF.size);
    const type = got >= 4 ? this.request.u32[0] : -1;
    if (type === VirtioScsiControl.TMF && got >= VIRTIO_SCSI_TMF.size && into.bytes >= 1) {
      this.manage(head, into);
    } else if (
      (type === VirtioScsiControl.AN_QUERY || type === VirtioScsiControl.AN_SUBSCRIBE) &&
      got >= AN_REQUEST.size &&
      into.bytes >= AN_RESPONSE_BYTES
    ) {
      this.notifications(head, into);
    } else {
      this.ring.fail(head, `control request of type ${type} with ${out.bytes} readable, ${into.bytes} writable bytes`);
    }
  }

  /** Look the target up by lun[0..1] at `at`. */
  private entryAt(at: number) {
    const { u8 } = this.request;
    return u8[at] === 1 && u8[at + 1] < MAX_TARGETS ? this.controller.entries[u8[at + 1]] : null;
  }

  private manage(head: number, into: SgList): void {
    this.functions++;
    const { u8, u32 } = this.request;
    const at = VIRTIO_SCSI_TMF.fields.lun[0];
    const entry = this.entryAt(at);
    if (entry === null) {
      this.reply(head, into, VirtioScsiResponse.BAD_TARGET);
      return;
    }
    const fn = u32[VIRTIO_SCSI_TMF.fields.subtype[0] >> 2] as Tmf; // what is no function of ours is rejected by the target
    const tag = VIRTIO_SCSI_TMF.fields.id[0] >> 2;
    entry.hold();
    let answered = false;
    entry.target.taskManagement(
      fn,
      flatLun(u8[at + 2], u8[at + 3]),
      u32[tag],
      u32[tag + 1],
      (response) => {
        if (answered) return;
        answered = true;
        this.reply(head, into, RESPONSE_OF_TMF[response] ?? RESPONSE_OF_TMF[TmfResponse.FUNCTION_REJECTED]);
        entry.release();
      },
      this.nexus,
    );
  }

  private reply(head: number, into: SgList, code: number): void {
    this.answer.u8[0] = code;
    if (!this.ring.abandoned) into.scatter(0, this.answer, 0, 1);
    this.ring.complete(head, 1);
  }

  /** There are no asynchronous notifications: none of the events asked for is one we have. */
  private notifications(head: number, into: SgList): void {
    const entry = this.entryAt(AN_REQUEST.fields.lun[0]);
    this.answer.u32[0] = 0;
    this.answer.u8[4] = entry === null ? VirtioScsiResponse.BAD_TARGET : VirtioScsiResponse.OK;
    into.scatter(0, this.answer, 0, AN_RESPONSE_BYTES);
    this.ring.complete(head, AN_RESPONSE_BYTES);
  }

  arm(): boolean {
    return this.ring.ring.armNotifications();
  }

  disarm(): void {
    this.ring.ring.suppressNotifications();
  }

  stopped(): void {}
}
