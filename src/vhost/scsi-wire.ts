/**
 * Structures of the virtio SCSI device (virtio 1.2 §5.6.6) and its numbers. Sizes of CDB and sense are the defaults:
 * with vhost-user the config space is the front end's, and QEMU refuses to change them.
 */
import { defineStruct } from '../memory/struct-table.ts';
import { TaskResponse } from '../scsi/task.ts';
import { TmfResponse } from '../scsi/task-management.ts';

/** Device feature bits (§5.6.3). */
export const ScsiFeature = {
  /** One request may have data both ways. Not offered: no command needs it. */
  INOUT: 0,
  /** Events for targets and LUNs that come and go. */
  HOTPLUG: 1,
  /** Events for LUNs whose parameters change. */
  CHANGE: 2,
  T10_PI: 3,
} as const;

/** §5.6.2: the fixed queues; from REQUEST_QUEUE on all are request queues. */
export const CONTROL_QUEUE = 0;
export const EVENT_QUEUE = 1;

/** §5.6.6.1: the readable part of a command. */
export const REQUEST = defineStruct('virtio_scsi_req_cmd', 'virtio 1.2 §5.6.6.1', 51, {
  lun: [0, 'bytes', 8],
  id: [8, 'u64'],
  task_attr: [16, 'u8'],
  prio: [17, 'u8'],
  crn: [18, 'u8'],
  cdb: [19, 'bytes', 32],
});

/** §5.6.6.1: the writable part; data-in follows. */
export const RESPONSE = defineStruct('virtio_scsi_req_cmd response', 'virtio 1.2 §5.6.6.1', 108, {
  sense_len: [0, 'u32'],
  residual: [4, 'u32'],
  status_qualifier: [8, 'u16'],
  status: [10, 'u8'],
  response: [11, 'u8'],
  sense: [12, 'bytes', 96],
});

/** §5.6.6.1: codes of `response`, for commands and task management alike. */
export const VIRTIO_SCSI_S = {
  OK: 0,
  OVERRUN: 1,
  ABORTED: 2,
  BAD_TARGET: 3,
  RESET: 4,
  BUSY: 5,
  TRANSPORT_FAILURE: 6,
  TARGET_FAILURE: 7,
  NEXUS_FAILURE: 8,
  FAILURE: 9,
  FUNCTION_SUCCEEDED: 10,
  FUNCTION_REJECTED: 11,
  INCORRECT_LUN: 12,
} as const;

/** By TaskResponse. */
export const RESPONSE_OF_TASK: Uint8Array = (() => {
  const codes = new Uint8Array(7);
  codes[TaskResponse.OK] = VIRTIO_SCSI_S.OK;
  codes[TaskResponse.BAD_TARGET] = VIRTIO_SCSI_S.BAD_TARGET;
  codes[TaskResponse.ABORTED] = VIRTIO_SCSI_S.ABORTED;
  codes[TaskResponse.RESET] = VIRTIO_SCSI_S.RESET;
  codes[TaskResponse.BUSY] = VIRTIO_SCSI_S.BUSY;
  codes[TaskResponse.OVERRUN] = VIRTIO_SCSI_S.OVERRUN;
  codes[TaskResponse.FAILURE] = VIRTIO_SCSI_S.FAILURE;
  return codes;
})();

/** By TmfResponse. FUNCTION COMPLETE is the OK of task management. */
export const RESPONSE_OF_TMF: Uint8Array = (() => {
  const codes = new Uint8Array(4);
  codes[TmfResponse.FUNCTION_COMPLETE] = VIRTIO_SCSI_S.OK;
  codes[TmfResponse.FUNCTION_SUCCEEDED] = VIRTIO_SCSI_S.FUNCTION_SUCCEEDED;
  codes[TmfResponse.FUNCTION_REJECTED] = VIRTIO_SCSI_S.FUNCTION_REJECTED;
  codes[TmfResponse.INCORRECT_LUN] = VIRTIO_SCSI_S.INCORRECT_LUN;
  return codes;
})();

/** §5.6.6.2: kinds of control request. */
export const CONTROL_TMF = 0;
export const CONTROL_AN_QUERY = 1;
export const CONTROL_AN_SUBSCRIBE = 2;

/** §5.6.6.2: a task management function; one writable byte answers it. */
export const TMF_REQUEST = defineStruct('virtio_scsi_ctrl_tmf', 'virtio 1.2 §5.6.6.2', 24, {
  type: [0, 'u32'],
  subtype: [4, 'u32'],
  lun: [8, 'bytes', 8],
  id: [16, 'u64'],
});

/** §5.6.6.2: asynchronous notification query or subscription. */
export const AN_REQUEST = defineStruct('virtio_scsi_ctrl_an', 'virtio 1.2 §5.6.6.2', 16, {
  type: [0, 'u32'],
  lun: [4, 'bytes', 8],
  event_requested: [12, 'u32'],
});
/** Its answer: u32 event_actual, u8 response. */
export const AN_RESPONSE_BYTES = 5;

/** §5.6.6.3: what goes into an event buffer. */
export const EVENT = defineStruct('virtio_scsi_event', 'virtio 1.2 §5.6.6.3', 16, {
  event: [0, 'u32'],
  lun: [4, 'bytes', 8],
  reason: [12, 'u32'],
});

export const ScsiEvent = {
  NO_EVENT: 0,
  TRANSPORT_RESET: 1,
  ASYNC_NOTIFY: 2,
  PARAM_CHANGE: 3,
  /** Added to the next event when some found no buffer: the driver looks at everything anew. */
  EVENTS_MISSED: 0x8000_0000,
} as const;

/** Reasons of TRANSPORT_RESET. */
export const ResetReason = { HARD: 0, RESCAN: 1, REMOVED: 2 } as const;

/** Targets of a controller: lun[1] of a request. */
export const MAX_TARGETS = 8;

/** A LUN that no target has: what a LUN in an addressing method we do not serve becomes. */
const NO_LUN = 0x3fff;

/** lun[2..3] as a 14-bit LUN: peripheral (0) and flat (1) addressing, the two that single-level LUNs have (SAM-5 4.7). */
export function flatLun(hi: number, lo: number): number {
  return (hi & 0x80) === 0 ? ((hi & 0x3f) << 8) | lo : NO_LUN;
}
