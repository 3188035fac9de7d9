/**
 * What each message does, one function a row of the message table. A handler sees a payload of the right size with
 * the right number of descriptors; it answers null, a reply, a reason for refusing, or LATER. It takes the
 * descriptors it keeps; the session closes the others.
 */
import type { Fd } from '../sys/fd.ts';
import { hasFeature } from '../virtio/features.ts';
import { ringSizeError } from '../virtio/ring-place.ts';
import { createInflight, InflightRegion, inflightError } from './inflight.ts';
import {
  inflightPayload,
  parseAddr,
  parseConfig,
  parseInflight,
  parseOneRegion,
  parseState,
  parseTable,
  parseU64,
  parseVringFd,
  type RequestName,
  statePayload,
  u64Payload,
  VhostFeature,
} from './messages.ts';
import { LATER, type Outcome } from './outcome.ts';
import type { Session } from './session.ts';
import { type IncomingMessage, takeFd } from './transport.ts';
import type { Vring } from './vring.ts';

type Handler = (s: Session, m: IncomingMessage) => Outcome;

/** SET_CONFIG flag: the bytes come from a migration, read-only fields included. */
const CONFIG_MIGRATING = 1;

/** SET_VRING_KICK, CALL and ERR name a vring, and bring a descriptor or say that there is none. */
function vringFd(s: Session, m: IncomingMessage): { vring: Vring; noFd: boolean; fd: Fd | undefined } | string {
  const parsed = parseVringFd(m.payload);
  if (parsed === undefined) return 'bits 9 to 63 must be zero';
  const vring = s.vringAt(parsed.index);
  if (typeof vring === 'string') return vring;
  if (s.transport.carriesFds) {
    if (parsed.noFd && m.fds.length > 0) return 'a descriptor, and the flag that says there is none';
    if (!parsed.noFd && m.fds.length === 0) return 'no descriptor, and no flag that says so';
  }
  return { vring, noFd: parsed.noFd, fd: takeFd(m) };
}

function setNotifier(kind: 'call' | 'err', s: Session, m: IncomingMessage): Outcome {
  const named = vringFd(s, m);
  if (typeof named === 'string') return named;
  const { vring, noFd, fd } = named;
  const notifier = noFd ? null : s.transport.notifier(kind, vring.index, fd);
  if (typeof notifier === 'string') return notifier;
  vring[kind]?.close();
  vring[kind] = notifier;
  if (kind === 'call' && vring.running !== null) {
    vring.running.call = notifier;
    notifier?.signal(); // what was used meanwhile was reported to the old descriptor, which nobody may have read
  }
  return null;
}

/** Change a vring's state. A running one is stopped first, and waits for SET_VRING_KICK then. */
function whenStopped(s: Session, vring: Vring, what: string, change: () => void): Outcome {
  const apply = () => {
    change();
    s.tryStart(vring);
  };
  if (vring.running === null) {
    apply();
    return null;
  }
  return s.stopRings([vring.running], what, false, () => {
    apply();
    s.finish(null);
  });
}

function stopAll(s: Session, what: string, then: () => void): Outcome {
  const running = s.vrings.flatMap((v) => (v.running === null ? [] : [v.running]));
  return s.stopRings(running, what, false, () => {
    then();
    s.finish(null);
  });
}

function openInflight(s: Session, m: IncomingMessage): InflightRegion | string {
  const description = parseInflight(m.payload);
  const { maxQueues } = s.model;
  if (s.transport.carriesFds) return InflightRegion.open(m.fds[0] as Fd, description, maxQueues);
  const error = inflightError(description, maxQueues);
  if (error !== null) return error;
  const mapped = s.transport.mapInflight?.(description) ?? 'there is no way to the region';
  return typeof mapped === 'string' ? mapped : InflightRegion.over(mapped, description);
}

function setInflight(s: Session, region: InflightRegion): null {
  s.inflight?.close();
  s.inflight = region;
  for (const vring of s.vrings) s.tryStart(vring);
  return null;
}

export const HANDLERS: Readonly<Record<RequestName, Handler>> = {
  GET_FEATURES: (s) => ({ payload: u64Payload(s.offered) }),

  SET_FEATURES(s, m) {
    const asked = parseU64(m.payload);
    // QEMU acknowledges bits of its own that no back end offered: they are not ours to judge.
    s.features = asked & s.offered;
    if (!hasFeature(asked, VhostFeature.PROTOCOL_FEATURES)) {
      for (const vring of s.vrings) s.enable(vring, true);
    }
    s.model.setFeatures(s.features);
    return null;
  },

  SET_OWNER: () => null,

  /** Deprecated; the one safe meaning is "stop all vrings". */
  RESET_OWNER: (s) =>
    stopAll(s, 'RESET_OWNER', () => {
      for (const vring of s.vrings) vring.dropKick();
    }),

  SET_MEM_TABLE(s, m) {
    const regions = parseTable(m.payload);
    if (regions === undefined) return 'the number of regions is not what the payload holds';
    const error = s.memory.replace(regions, m.fds);
    if (error === null) s.memoryChanged();
    return error;
  },

  SET_VRING_NUM(s, m) {
    const { index, num } = parseState(m.payload);
    const vring = s.vringAt(index);
    if (typeof vring === 'string') return vring;
    const error = ringSizeError(num);
    if (error !== null) return error;
    if (vring.num === num) return null;
    return whenStopped(s, vring, 'SET_VRING_NUM', () => {
      vring.num = num;
    });
  },

  SET_VRING_ADDR(s, m) {
    const addr = parseAddr(m.payload);
    const vring = s.vringAt(addr.index);
    if (typeof vring === 'string') return vring;
    vring.addr = addr;
    if (vring.running !== null) s.replaceRing(vring, vring.running);
    else s.tryStart(vring);
    return null;
  },

  SET_VRING_BASE(s, m) {
    const { index, num } = parseState(m.payload);
    const vring = s.vringAt(index);
    if (typeof vring === 'string') return vring;
    if (num > 0xffff) return `base ${num} is more than an index can be`;
    return whenStopped(s, vring, 'SET_VRING_BASE', () => {
      vring.base = num;
    });
  },

  GET_VRING_BASE(s, m) {
    const { index } = parseState(m.payload);
    const vring = s.vringAt(index);
    if (typeof vring === 'string') return vring;
    const reply = () => ({ payload: statePayload(index, Math.max(0, vring.base)) });
    vring.problem = null;
    if (vring.running !== null) {
      // Everything taken is completed first: the front end believes that nothing is in flight after the reply.
      return s.stopRings([vring.running], 'GET_VRING_BASE', false, () => s.finish(reply()));
    }
    vring.dropKick();
    return reply();
  },

  SET_VRING_KICK(s, m) {
    const named = vringFd(s, m);
    if (typeof named === 'string') return named;
    const { vring, fd } = named;
    const kick = s.transport.kickSource(vring.index, fd, s.kicked);
    if (typeof kick === 'string') return kick;
    vring.dropKick();
    vring.kick = kick;
    if (vring.running !== null) {
      vring.running.kick = kick;
      return null;
    }
    vring.problem = null;
    s.tryStart(vring);
    return null;
  },

  SET_VRING_CALL: (s, m) => setNotifier('call', s, m),
  SET_VRING_ERR: (s, m) => setNotifier('err', s, m),

  GET_PROTOCOL_FEATURES: (s) => ({ payload: u64Payload(s.protocolOffered) }),

  SET_PROTOCOL_FEATURES(s, m) {
    s.protocolFeatures = parseU64(m.payload) & s.protocolOffered;
    return null;
  },

  GET_QUEUE_NUM: (s) => ({ payload: u64Payload(BigInt(s.model.maxQueues)) }),

  /** Also for vrings the guest never set up: the state is kept until there is something to enable. */
  SET_VRING_ENABLE(s, m) {
    const { index, num } = parseState(m.payload);
    const vring = s.vringAt(index);
    if (typeof vring === 'string') return vring;
    if (num > 1) return `enable ${num}, expected 0 or 1`;
    s.enable(vring, num === 1);
    return null;
  },

  SET_BACKEND_REQ_FD(s, m) {
    if (!s.transport.carriesFds) {
      s.setBackendWay();
      return null;
    }
    const fd = takeFd(m);
    if (fd === undefined) return 'no descriptor, and there is no other way to the front end';
    s.setBackendChannel(fd);
    return null;
  },

  GET_CONFIG(s, m) {
    const access = parseConfig(m.payload);
    const bytes = access === undefined ? null : s.model.readConfig(access.offset, access.size);
    if (access === undefined || bytes === null) return { payload: new Uint8Array(0) }; // the protocol's word for no
    const payload = m.payload.slice();
    payload.set(bytes, payload.length - bytes.length);
    return { payload };
  },

  SET_CONFIG(s, m) {
    const access = parseConfig(m.payload);
    if (access === undefined) return 'the size is not what the payload holds';
    return s.model.writeConfig(access.offset, access.data, (access.flags & CONFIG_MIGRATING) !== 0);
  },

  GET_INFLIGHT_FD(s, m) {
    const made = createInflight(parseInflight(m.payload), s.model.maxQueues);
    if (typeof made === 'string') return made;
    return { payload: inflightPayload(made.description, m.payload.length), fds: [made.fd] };
  },

  SET_INFLIGHT_FD(s, m) {
    if (s.vrings.some((v) => v.running !== null)) return 'vrings are running';
    const region = openInflight(s, m);
    if (typeof region === 'string') return region;
    // The front end came back sooner than the requests of its last session: doing them again must wait for those.
    const waits = s.regionInUse(region.key, () => {
      if (s.ended === null) s.finish(setInflight(s, region));
      else region.close();
    });
    return waits ? LATER : setInflight(s, region);
  },

  RESET_DEVICE: (s) =>
    stopAll(s, 'RESET_DEVICE', () => {
      for (const vring of s.vrings) vring.reset();
      s.features = 0n;
      s.status = 0;
      s.model.setFeatures(0n);
    }),

  GET_MAX_MEM_SLOTS: (s) => ({ payload: u64Payload(BigInt(s.memSlots)) }),

  ADD_MEM_REG(s, m) {
    const error = s.memory.add(parseOneRegion(m.payload), m.fds);
    if (error === null) s.memoryChanged();
    return error;
  },

  REM_MEM_REG(s, m) {
    const error = s.memory.remove(parseOneRegion(m.payload));
    if (error === null) s.memoryChanged();
    return error;
  },

  SET_STATUS(s, m) {
    const status = parseU64(m.payload);
    if (status > 0xffn) return `status 0x${status.toString(16)} is more than a byte`;
    s.status = Number(status);
    return null;
  },

  GET_STATUS: (s) => ({ payload: u64Payload(BigInt(s.currentStatus())) }),
};
