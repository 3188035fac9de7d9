/**
 * What the device half adds to the structures of the virtio SCSI device (src/virtio/scsi-device.ts): the answers to our SCSI target's
 * results, asynchronous notification, and which LUNs there can be.
 */
import { defineStruct } from '../memory/struct-table.ts';
import { TaskResponse } from '../scsi/task.ts';
import { TmfResponse } from '../scsi/task-management.ts';
import { VirtioScsiResponse } from '../virtio/scsi-device.ts';

/** By TaskResponse. */
export const RESPONSE_OF_TASK: Uint8Array = (() => {
  const codes = new Uint8Array(7);
  codes[TaskResponse.OK] = VirtioScsiResponse.OK;
  codes[TaskResponse.BAD_TARGET] = VirtioScsiResponse.BAD_TARGET;
  codes[TaskResponse.ABORTED] = VirtioScsiResponse.ABORTED;
  codes[TaskResponse.RESET] = VirtioScsiResponse.RESET;
  codes[TaskResponse.BUSY] = VirtioScsiResponse.BUSY;
  codes[TaskResponse.OVERRUN] = VirtioScsiResponse.OVERRUN;
  codes[TaskResponse.FAILURE] = VirtioScsiResponse.FAILURE;
  return codes;
})();

/** By TmfResponse. FUNCTION COMPLETE is the OK of task management. */
export const RESPONSE_OF_TMF: Uint8Array = (() => {
  const codes = new Uint8Array(4);
  codes[TmfResponse.FUNCTION_COMPLETE] = VirtioScsiResponse.OK;
  codes[TmfResponse.FUNCTION_SUCCEEDED] = VirtioScsiResponse.FUNCTION_SUCCEEDED;
  codes[TmfResponse.FUNCTION_REJECTED] = VirtioScsiResponse.FUNCTION_REJECTED;
  codes[TmfResponse.INCORRECT_LUN] = VirtioScsiResponse.INCORRECT_LUN;
  return codes;
})();

/** §5.6.6.2: asynchronous notification query or subscription. */
export const AN_REQUEST = defineStruct('virtio_scsi_ctrl_an', 'virtio 1.2 §5.6.6.2', 16, {
  type: [0, 'u32'],
  lun: [4, 'bytes', 8],
  event_requested: [12, 'u32'],
});
/** Its answer: u32 event_actual, u8 response. */
export const AN_RESPONSE_BYTES = 5;

/** Targets of a controller: lun[1] of a request. */
export const MAX_TARGETS = 8;

/** A LUN that no target has: what a LUN in an addressing method we do not serve becomes. */
const NO_LUN = 0x3fff;

/** lun[2..3] as a 14-bit LUN: peripheral (0) and flat (1) addressing, the two that single-level LUNs have (SAM-5 4.7). */
export function flatLun(hi: number, lo: number): number {
  return (hi & 0x80) === 0 ? ((hi & 0x3f) << 8) | lo : NO_LUN;
}
