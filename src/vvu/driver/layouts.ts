import { ProtocolFeature } from '../../vhost/messages.ts';
import { RELAYED_FEATURES } from '../relayed-features.ts';
import type { LayoutName } from './layout-names.ts';
import { CapType, capOf, type VirtioCap } from './virtio-caps.ts';

/**
 * The vvu devices there are, one row each: how a device is recognised, where its doorbells and the compute VM's memory lie,
 * how kicks arrive, and what may be offered through it. The driver is written against the row and knows no device by name.
 *
 * A device is found by its capabilities, never by its PCI id alone: the ids were given to other virtio devices since.
 */

/**
 * Where region i of a table begins in the memory window, and where in it the region's guest address:
 *
 * | rule       | begins at                             | guest address at |
 * |------------|---------------------------------------|------------------|
 * | `prefixed` | sum of (mmap_offset + size) before it | + mmap_offset    |
 * | `packed`   | sum of size before it                 | + 0              |
 * | `placed`   | what stands in mmap_offset            | + 0              |
 */
export type RegionRule = 'prefixed' | 'packed' | 'placed';

/** How the driver learns that a compute VM is there: by a status register, by the first message, or by the relay's messages. */
export type LinkKind = 'status' | 'first-message' | 'relay';

export interface LayoutRow {
  readonly name: LayoutName;
  readonly what: string;
  /** Device ids with which it has been seen; they decide only between rows that look alike. */
  readonly ids: readonly number[];
  readonly doorbells: 'fixed' | 'capability' | 'queues';
  readonly regions: RegionRule;
  readonly link: LinkKind;
  /** Kicks can raise an interrupt (where the access mode has any). */
  readonly kicks: boolean;
  /** A reset while a front end's socket is open makes the device forget the socket. */
  readonly losesOpenSocket: boolean;
  /** The memory under a running vring is exchanged before the driver hears of it. */
  readonly memoryFlickers: boolean;
  /** Other devices can write straight into the window; false: it works, 8 bytes at a time. */
  readonly dmaTarget: boolean;
  /** Protocol feature bits that the device carries as they are meant. */
  readonly protocolFeatures: bigint;
}

const MQ = 1n << BigInt(ProtocolFeature.MQ);

const FORK = {
  link: 'status',
  regions: 'prefixed',
  losesOpenSocket: true,
  memoryFlickers: true,
  // The forks let the bits 0 and 1 pass and drop REPLY_ACK; bit 1 (LOG_SHMFD) ends in messages that drop the link.
  protocolFeatures: MQ,
} as const;

export const LAYOUTS: readonly LayoutRow[] = [
  {
    ...FORK,
    name: 'A',
    what: 'QEMU fork of 2018: no capabilities of its own, no kicks',
    ids: [0x1017, 0x1058],
    doorbells: 'fixed',
    kicks: false,
    dmaTarget: true,
  },
  {
    ...FORK,
    name: 'B',
    what: 'QEMU fork of 2019',
    ids: [0x1017, 0x1058],
    doorbells: 'capability',
    kicks: true,
    dmaTarget: true,
  },
  {
    ...FORK,
    name: 'C',
    what: 'QEMU patches of 2022',
    ids: [0x1016, 0x106b],
    doorbells: 'capability',
    kicks: true,
    dmaTarget: false,
  },
  {
    name: 'D',
    what: 'crosvm',
    ids: [0x107d],
    doorbells: 'capability',
    regions: 'packed',
    link: 'first-message',
    kicks: true,
    losesOpenSocket: false,
    memoryFlickers: true,
    dmaTarget: true,
    protocolFeatures: MQ,
  },
  {
    name: 'S',
    what: 'stock QEMU through vvu-target relay',
    ids: [0x1066],
    doorbells: 'queues',
    regions: 'placed',
    link: 'relay',
    kicks: true,
    losesOpenSocket: false,
    // The relay keeps the old mapping until this driver has let go of it.
    memoryFlickers: false,
    dmaTarget: true,
    protocolFeatures: RELAYED_FEATURES,
  },
];

/** What a device shows of itself. */
export interface DeviceLook {
  readonly deviceId: number;
  readonly caps: readonly VirtioCap[];
  barSize(bar: number): number;
}

const GIB = 2 ** 30;
/** BAR of the forks' doorbells and memory. */
export const FIXED_BAR = 2;
/** Registers of the forks' doorbells: 1024 queues, and one for a log. */
const FIXED_BAR_BYTES = 64 * GIB;

function row(name: LayoutName): LayoutRow {
  return LAYOUTS.find((r) => r.name === name) as LayoutRow;
}

/**
 * The row of a device, or why it is none.
 * @param override instead of what it looks like
 */
export function recognise(look: DeviceLook, override?: LayoutName): LayoutRow | string {
  const missing = [CapType.COMMON, CapType.NOTIFY, CapType.DEVICE].filter(
    (type) => capOf(look.caps, type) === undefined,
  );
  const [doorbell, memory] = [CapType.DOORBELL, CapType.SHARED_MEMORY].map((type) => capOf(look.caps, type));
  if (capOf(look.caps, CapType.COMMON) === undefined || capOf(look.caps, CapType.NOTIFY) === undefined) {
    return `it has no virtio capability of type ${missing.join(', ')}: no modern virtio device`;
  }
  if (override !== undefined) {
    const wants = row(override).doorbells;
    if (wants === 'capability' && (doorbell === undefined || memory === undefined)) {
      return `layout ${override} needs capabilities of the types 6 and 8, which it has not`;
    }
    if (wants === 'queues' && memory === undefined) return `layout ${override} needs a capability of type 8`;
    return row(override);
  }
  if (doorbell !== undefined && memory !== undefined) {
    if (look.deviceId === row('D').ids[0]) return row('D');
    return row('C').ids.includes(look.deviceId) ? row('C') : row('B');
  }
  if (memory !== undefined && row('S').ids.includes(look.deviceId)) return row('S');
  if (doorbell === undefined && memory === undefined && look.barSize(FIXED_BAR) >= FIXED_BAR_BYTES) {
    return missing.length === 0 ? row('A') : `it has no virtio capability of type ${missing.join(', ')}`;
  }
  const types = look.caps.map((c) => c.type).join(', ');
  return `it is no virtio-vhost-user device we know: capabilities of the types ${types}, device id 0x${look.deviceId.toString(16)}`;
}
