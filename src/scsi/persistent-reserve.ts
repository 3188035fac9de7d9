import { be16, be32 } from './bytes.ts';
import type { Command, Step } from './command.ts';
import type { Lun } from './lun.ts';
import { StateWord } from './lun-state.ts';
import { copyParameterList } from './parameter-list.ts';
import { ReservationType } from './reservation-check.ts';
import { saveReservations } from './reservation-store.ts';
import { type Key, PrResult, Reservations } from './reservations.ts';
import { Sense } from './sense.ts';
import { ScsiStatus } from './status.ts';
import { TaskResponse } from './task.ts';
import { responseWriter } from './task-result.ts';

/**
 * PERSISTENT RESERVE IN and OUT (SPC-4 6.15, 6.16): CDBs and parameter lists; the rules are in reservations.ts.
 * SPEC_I_PT, ALL_TG_PT, REGISTER AND MOVE and REPLACE LOST RESERVATION are not there, and REPORT CAPABILITIES says so.
 */

const PR_OUT_LIST = 24;
const SPEC_I_PT = 0x08;
const ALL_TG_PT = 0x04;
const APTPL = 0x01;
const TYPES: readonly number[] = Object.values(ReservationType).filter((t) => t !== ReservationType.NONE);

/** While a RESERVE holds, persistent reservations can't be used, even by its holder (SPC-2 5.5.1). */
function reservedBySpc2(lun: Lun): boolean {
  return lun.state.words[StateWord.RESERVE_HOLDER] !== 0;
}

// PERSISTENT RESERVE IN.

function prIn(write: (reservations: Reservations) => void): Step {
  return (lun, command) => {
    if (reservedBySpc2(lun)) return command.status(ScsiStatus.RESERVATION_CONFLICT);
    const reservations = new Reservations(lun.state);
    responseWriter.start().u32(reservations.generation).u32(0);
    write(reservations);
    responseWriter.patch32(4, responseWriter.length - 8);
    return command.respond(be16(command.task.cdb, 7));
  };
}

export const readKeys = prIn((reservations) => {
  for (const nexus of reservations.registrants()) {
    const key = reservations.key(nexus);
    responseWriter.u32(key.hi).u32(key.lo);
  }
});

export const readReservation = prIn((reservations) => {
  if (reservations.type === ReservationType.NONE) return;
  const key = reservations.holderKey();
  responseWriter.u32(key.hi).u32(key.lo).zeros(5).u8(reservations.type).zeros(2); // scope 0: the logical unit
});

export const readFullStatus = prIn((reservations) => {
  for (const nexus of reservations.registrants()) {
    const key = reservations.key(nexus);
    const { hi, lo, port } = reservations.initiator(nexus);
    const holder = reservations.holds(nexus);
    responseWriter
      .u32(key.hi)
      .u32(key.lo)
      .zeros(4)
      .u8(holder ? 0x01 : 0x00) // R_HOLDER
      .u8(holder ? reservations.type : 0)
      .zeros(4)
      .u16(port)
      .u32(24)
      // TransportID: virtio has none, so a SAS one with a locally assigned address (SPC-4 7.6.4.5).
      .u8(0x06)
      .zeros(3)
      .u32(hi)
      .u32(lo)
      .zeros(12);
  }
});

export const reportCapabilities: Step = (lun, command) => {
  if (reservedBySpc2(lun)) return command.status(ScsiStatus.RESERVATION_CONFLICT);
  const persistent = new Reservations(lun.state).persistent;
  responseWriter
    .start()
    .u16(8)
    .u8(0x10 | (lun.reservationStore === null ? 0 : 0x01)) // CRH, PTPL_C
    .u8(0x80 | (persistent ? 0x01 : 0)) // TMV, PTPL_A
    .u8(0xea) // WR_EX_AR, EX_AC_RO, WR_EX_RO, EX_AC, WR_EX
    .u8(0x01) // EX_AC_AR
    .u16(0);
  return command.respond(be16(command.task.cdb, 7));
};

// PERSISTENT RESERVE OUT.

type PrOutAction = (r: Reservations, nexus: number, list: Uint8Array, type: number) => PrResult;

/** TYPE of a CDB, or -1: there is no such type, or the scope is not the logical unit (others are obsolete). */
function typeOf(cdb: Uint8Array): number {
  return TYPES.includes(cdb[2]) ? cdb[2] : -1;
}

/** SCOPE or TYPE is wrong: points at which. */
function invalidType(command: Command): boolean {
  return command.invalidCdb(2, command.task.cdb[2] >>> 4 !== 0 ? 7 : 3);
}

/** @param typed the action always looks at SCOPE and TYPE */
function prOut(action: PrOutAction, typed: boolean): Step {
  return (lun, command) => {
    const cdb = command.task.cdb;
    if (reservedBySpc2(lun)) return command.status(ScsiStatus.RESERVATION_CONFLICT);
    const type = typeOf(cdb);
    if (typed && type < 0) return invalidType(command);
    if (be32(cdb, 5) !== PR_OUT_LIST) return command.fail(Sense.PARAMETER_LIST_LENGTH_ERROR);
    const list = copyParameterList(command, PR_OUT_LIST);
    if (list === undefined) return command.overrun();
    if ((list[20] & SPEC_I_PT) !== 0) return command.invalidParameter(20, 3);
    const registers = (cdb[1] & 0x1f) === 0x00 || (cdb[1] & 0x1f) === 0x06;
    if (registers && (list[20] & ALL_TG_PT) !== 0) return command.invalidParameter(20, 2);
    if (registers && (list[20] & APTPL) !== 0 && lun.reservationStore === null) return command.invalidParameter(20, 0);

    const reservations = new Reservations(lun.state);
    const before = reservations.persistent;
    const result = action(reservations, lun.recordOf(command.task.nexus), list, type);
    lun.stateChanged();
    if (result !== PrResult.GOOD) return refuse(command, result);
    return before || reservations.persistent ? save(lun, command) : command.good();
  };
}

function refuse(command: Command, result: PrResult): boolean {
  switch (result) {
    case PrResult.INVALID_KEY:
      return command.invalidParameter(8, 7);
    case PrResult.INVALID_RELEASE:
      return command.fail(Sense.INVALID_RELEASE_OF_PERSISTENT_RESERVATION);
    case PrResult.NO_RESOURCES:
      return command.fail(Sense.INSUFFICIENT_REGISTRATION_RESOURCES);
    case PrResult.INVALID_TYPE:
      return invalidType(command);
    default:
      return command.status(ScsiStatus.RESERVATION_CONFLICT);
  }
}

/** GOOD comes when the state is on stable storage. */
function save(lun: Lun, command: Command): boolean {
  const { saved, sequence } = saveReservations(lun.state);
  lun.reservationStore!.save(saved, sequence, (ok) => {
    if (command.lun !== lun) return; // called twice
    if (command.cancelled !== TaskResponse.OK) lun.finishCancelled(command);
    else {
      if (ok) command.good();
      else command.fail(Sense.INTERNAL_TARGET_FAILURE);
      lun.finish(command);
    }
  });
  return false;
}

function keyAt(list: Uint8Array, at: number): Key {
  return { hi: be32(list, at), lo: be32(list, at + 4) };
}

/** RESERVATION KEY and SERVICE ACTION RESERVATION KEY. */
const own = (list: Uint8Array) => keyAt(list, 0);
const other = (list: Uint8Array) => keyAt(list, 8);
const persists = (list: Uint8Array) => (list[20] & APTPL) !== 0;

export const prRegister = prOut((r, nexus, l) => r.register(nexus, own(l), other(l), false, persists(l)), false);
export const prRegisterAndIgnore = prOut(
  (r, nexus, l) => r.register(nexus, own(l), other(l), true, persists(l)),
  false,
);
export const prReserve = prOut((r, nexus, l, type) => r.reserve(nexus, own(l), type), true);
export const prRelease = prOut((r, nexus, l, type) => r.release(nexus, own(l), type), true);
export const prClear = prOut((r, nexus, l) => r.clear(nexus, own(l)), false);
export const prPreempt = prOut((r, nexus, l, type) => r.preempt(nexus, own(l), other(l), type, false), false);
export const prPreemptAndAbort = prOut((r, nexus, l, type) => r.preempt(nexus, own(l), other(l), type, true), false);
