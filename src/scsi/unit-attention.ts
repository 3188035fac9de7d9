import { Sense, type SenseCode } from './sense.ts';

/**
 * Unit attentions (SAM-5 5.14): what a nexus must be told before its next command runs. Pending ones are a bit mask a
 * nexus, so the queue is bounded by nature and one condition is never told twice. Lower bits are told first.
 */
export const Attention = {
  POWER_ON_OR_RESET: 1 << 0,
  BUS_DEVICE_RESET: 1 << 1,
  I_T_NEXUS_LOSS: 1 << 2,
  COMMANDS_CLEARED: 1 << 3,
  RESERVATIONS_PREEMPTED: 1 << 4,
  RESERVATIONS_RELEASED: 1 << 5,
  REGISTRATIONS_PREEMPTED: 1 << 6,
  CAPACITY_CHANGED: 1 << 7,
  MODE_CHANGED: 1 << 8,
  INQUIRY_CHANGED: 1 << 9,
  LUNS_CHANGED: 1 << 10,
} as const;
export type Attention = (typeof Attention)[keyof typeof Attention];

const SENSE: readonly SenseCode[] = [
  Sense.POWER_ON_OR_RESET,
  Sense.BUS_DEVICE_RESET_FUNCTION_OCCURRED,
  Sense.I_T_NEXUS_LOSS_OCCURRED,
  Sense.COMMANDS_CLEARED_BY_ANOTHER_INITIATOR,
  Sense.RESERVATIONS_PREEMPTED,
  Sense.RESERVATIONS_RELEASED,
  Sense.REGISTRATIONS_PREEMPTED,
  Sense.CAPACITY_DATA_HAS_CHANGED,
  Sense.MODE_PARAMETERS_CHANGED,
  Sense.INQUIRY_DATA_HAS_CHANGED,
  Sense.REPORTED_LUNS_DATA_HAS_CHANGED,
];

/** The bit to tell next. @param pending not 0 */
export function firstAttention(pending: number): number {
  return pending & -pending;
}

export function senseOfAttention(bit: number): SenseCode {
  return SENSE[31 - Math.clz32(bit)];
}
