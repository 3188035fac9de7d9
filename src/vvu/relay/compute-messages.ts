import { Request } from '../../vhost/messages.ts';

/** The messages of a compute VM that go through a relay; everything else is refused. */

export interface RelayedRow {
  /** It is always answered. */
  readonly answered: boolean;
  /** Its payload begins with a vring's index (in bits 0-7 of a u64 for those that bring a descriptor). */
  readonly vring: 'state' | 'fd' | null;
}

const R = Request;
const row = (answered: boolean, vring: RelayedRow['vring'] = null): RelayedRow => ({ answered, vring });

export const RELAYED: ReadonlyMap<number, RelayedRow> = new Map([
  [R.GET_FEATURES, row(true)],
  [R.SET_FEATURES, row(false)],
  [R.SET_OWNER, row(false)],
  [R.RESET_OWNER, row(false)],
  [R.SET_MEM_TABLE, row(false)],
  [R.SET_VRING_NUM, row(false, 'state')],
  [R.SET_VRING_ADDR, row(false, 'state')],
  [R.SET_VRING_BASE, row(false, 'state')],
  [R.GET_VRING_BASE, row(true, 'state')],
  [R.SET_VRING_KICK, row(false, 'fd')],
  [R.SET_VRING_CALL, row(false, 'fd')],
  [R.SET_VRING_ERR, row(false, 'fd')],
  [R.GET_PROTOCOL_FEATURES, row(true)],
  [R.SET_PROTOCOL_FEATURES, row(false)],
  [R.GET_QUEUE_NUM, row(true)],
  [R.SET_VRING_ENABLE, row(false, 'state')],
  [R.SET_BACKEND_REQ_FD, row(false)],
  [R.GET_CONFIG, row(true)],
  [R.SET_CONFIG, row(false)],
  [R.GET_INFLIGHT_FD, row(true)],
  [R.SET_INFLIGHT_FD, row(false)],
  [R.RESET_DEVICE, row(false)],
  [R.SET_STATUS, row(false)],
  [R.GET_STATUS, row(true)],
]);
