/**
 * The event queue of the virtio SCSI device (virtio 1.2 §5.6.6.3). The driver's buffers stay in the ring until there
 * is an event for one: so its index is what the front end expects when the vring stops. An event without a buffer is
 * lost, and the next one says that some were.
 */
import { Memory } from '../memory/memory.ts';
import { SgList } from '../memory/sg-list.ts';
import { VIRTIO_SCSI_EVENT, VirtioScsiEvent } from '../virtio/scsi-device.ts';
import type { ModelQueue } from './device-model.ts';
import type { RunningRing } from './running-ring.ts';

export class EventQueue implements ModelQueue {
  sent = 0;
  lost = 0;
  private ring: RunningRing | null = null;
  /** Events were lost and the driver does not know. */
  private missed = false;
  private readonly event = new Memory(new ArrayBuffer(VIRTIO_SCSI_EVENT.size));
  private readonly out = new SgList(1, 16);
  private readonly into = new SgList(1, 16);

  begin(ring: RunningRing): void {
    this.ring = ring;
    this.missed = false;
  }

  /** @param lun 0 also stands for the whole target */
  send(event: number, target: number, lun: number, reason: number): void {
    const ring = this.ring;
    if (ring === null) return; // no driver: it finds out when it starts
    if (!ring.enabled || !this.deliver(ring, event, target, lun, reason)) {
      this.lost++;
      this.missed = true;
    }
    ring.flush();
  }

  private deliver(ring: RunningRing, event: number, target: number, lun: number, reason: number): boolean {
    const head = ring.next();
    if (head < 0 || !ring.read(head, this.out, this.into)) {
      ring.checkBroken();
      return false;
    }
    if (this.into.bytes < VIRTIO_SCSI_EVENT.size) {
      ring.fail(head, `event buffer of ${this.into.bytes} bytes, an event has ${VIRTIO_SCSI_EVENT.size}`);
      ring.checkBroken();
      return false;
    }
    const { u8, u32 } = this.event;
    u8.fill(0);
    u32[VIRTIO_SCSI_EVENT.fields.event[0] >> 2] = this.missed ? event + VirtioScsiEvent.EVENTS_MISSED : event;
    const at = VIRTIO_SCSI_EVENT.fields.lun[0];
    if (event !== VirtioScsiEvent.NO_EVENT) {
      u8[at] = 1;
      u8[at + 1] = target;
      // As REPORT LUNS encodes them: flat addressing only where peripheral has no room.
      u8[at + 2] = lun >= 256 ? 0x40 | (lun >> 8) : 0;
      u8[at + 3] = lun & 0xff;
    }
    u32[VIRTIO_SCSI_EVENT.fields.reason[0] >> 2] = reason;
    this.into.scatter(0, this.event, 0, VIRTIO_SCSI_EVENT.size);
    ring.complete(head, VIRTIO_SCSI_EVENT.size);
    this.sent++;
    this.missed = false;
    return true;
  }

  /** Only a driver that missed events is told more, as soon as it gives a buffer. */
  poll(): number {
    const ring = this.ring;
    if (ring === null || !this.missed) return 0;
    return this.deliver(ring, VirtioScsiEvent.NO_EVENT, 0, 0, 0) ? 1 : 0;
  }

  arm(): boolean {
    return this.missed && (this.ring?.ring.armNotifications() ?? false);
  }

  disarm(): void {
    this.ring?.ring.suppressNotifications();
  }

  stopped(): void {
    this.ring = null;
    this.out.forget();
    this.into.forget();
  }
}
