import { defineStruct } from '../memory/struct-table.ts';

/** The virtio SCSI device (virtio 1.2 §5.6), for its driver and for the device: features, queues, configuration, requests, events. */

export const VIRTIO_ID_SCSI = 8;

/** Feature bits (§5.6.3). */
export const VirtioScsiFeature = {
  /** One request may have data both ways. Neither offered nor asked for: no command needs it. */
  INOUT: 0,
  /** Events for targets and LUNs that come and go. */
  HOTPLUG: 1,
  /** Events for LUNs whose parameters change. */
  CHANGE: 2,
  T10_PI: 3,
} as const;

/** Queues (§5.6.2); from FIRST_REQUEST on all are request queues. */
export const VirtioScsiQueue = { CONTROL: 0, EVENT: 1, FIRST_REQUEST: 2 } as const;

/** §5.6.4 */
export const VIRTIO_SCSI_CONFIG = defineStruct('virtio_scsi_config', 'virtio 1.2 §5.6.4', 36, {
  num_queues: [0, 'u32'],
  seg_max: [4, 'u32'],
  max_sectors: [8, 'u32'],
  cmd_per_lun: [12, 'u32'],
  event_info_size: [16, 'u32'],
  sense_size: [20, 'u32'],
  cdb_size: [24, 'u32'],
  max_channel: [28, 'u16'],
  max_target: [30, 'u16'],
  max_lun: [32, 'u32'],
});

/**
 * §5.6.6.1: the readable part of a command; data-out follows. CDB and sense have their default sizes: with vhost-user the
 * configuration is the front end's, and QEMU refuses to change them.
 */
export const VIRTIO_SCSI_REQUEST = defineStruct('virtio_scsi_req_cmd', 'virtio 1.2 §5.6.6.1', 51, {
  lun: [0, 'bytes', 8],
  id: [8, 'u64'],
  task_attr: [16, 'u8'],
  prio: [17, 'u8'],
  crn: [18, 'u8'],
  cdb: [19, 'bytes', 32],
});

/** §5.6.6.1: the writable part; data-in follows. */
export const VIRTIO_SCSI_RESPONSE = defineStruct('virtio_scsi_req_cmd response', 'virtio 1.2 §5.6.6.1', 108, {
  sense_len: [0, 'u32'],
  residual: [4, 'u32'],
  status_qualifier: [8, 'u16'],
  status: [10, 'u8'],
  response: [11, 'u8'],
  sense: [12, 'bytes', 96],
});

/** Kinds of control request (§5.6.6.2): task management, asynchronous notification. */
export const VirtioScsiControl = { TMF: 0, AN_QUERY: 1, AN_SUBSCRIBE: 2 } as const;

/** §5.6.6.2: a task management function; one byte answers it. */
export const VIRTIO_SCSI_TMF = defineStruct('virtio_scsi_ctrl_tmf', 'virtio 1.2 §5.6.6.2', 24, {
  type: [0, 'u32'],
  subtype: [4, 'u32'],
  lun: [8, 'bytes', 8],
  id: [16, 'u64'],
});

/** §5.6.6.3: what goes into an event buffer. */
export const VIRTIO_SCSI_EVENT = defineStruct('virtio_scsi_event', 'virtio 1.2 §5.6.6.3', 16, {
  event: [0, 'u32'],
  lun: [4, 'bytes', 8],
  reason: [12, 'u32'],
});

/** Response codes of commands and task management functions alike (§5.6.6.1). */
export const VirtioScsiResponse = {
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

/** Task management functions (§5.6.6.2). */
export const VirtioScsiTmf = { ABORT_TASK: 0, LOGICAL_UNIT_RESET: 5 } as const;

export const VirtioScsiEvent = {
  NO_EVENT: 0,
  TRANSPORT_RESET: 1,
  ASYNC_NOTIFY: 2,
  PARAM_CHANGE: 3,
  /** Added to the next event when some found no buffer: the driver looks at everything anew. */
  EVENTS_MISSED: 0x8000_0000,
} as const;

/** Reasons of TRANSPORT_RESET. */
export const VirtioScsiResetReason = { HARD: 0, RESCAN: 1, REMOVED: 2 } as const;

/** The eight bytes of a single-level LUN in flat addressing (§5.6.6.1). */
export function putLun(bytes: Uint8Array, at: number, target: number, lun: number): void {
  bytes[at] = 1;
  bytes[at + 1] = target;
  bytes[at + 2] = 0x40 | (lun >> 8);
  bytes[at + 3] = lun & 0xff;
  for (let i = 4; i < 8; i++) bytes[at + i] = 0;
}
