/**
 * What a session grants a front end at most. Every number that bounds memory, descriptors or work made on a front
 * end's word stands here.
 */

/** Bytes of a vhost-user payload. The largest we know (memory table, config) are a few hundred. */
export const MAX_PAYLOAD = 0x1000;
/** File descriptors that may come with one message. */
export const MAX_FDS = 32;
/** Regions of one SET_MEM_TABLE (the protocol's own limit). */
export const MAX_TABLE_REGIONS = 8;
/** Regions in all with ADD_MEM_REG: what GET_MAX_MEM_SLOTS answers. Each costs the front end a DIMM, us a mapping. */
export const MAX_MEM_SLOTS = 32;
/** Memory of one front end in all. A sparse file costs its owner nothing, but us a view for each GiB. */
export const MAX_MEMORY_BYTES = 4 * 2 ** 40;
/** Vrings a message can name: bits 0-7 of SET_VRING_KICK. */
export const MAX_VRINGS = 256;
/** Bytes of virtio config space a GET_CONFIG or SET_CONFIG may carry. */
export const MAX_CONFIG = 256;
/** Front ends at one controller at a time. */
export const MAX_SESSIONS = 16;
/** Requests taken from one vring in a pass, so that no vring starves another. */
export const REQUESTS_PER_PASS = 32;
/** Completions after which used elements become visible, also in the middle of a pass. */
export const PUBLISH_EVERY = 16;
/** How often a vring whose front end gives no kicks is looked at while the loop sleeps, ms. */
export const POLL_ONLY_MS = 1;
/** Time after which a drain that does not end is reported, ms. */
export const SLOW_DRAIN_MS = 3000;
/** Requests of one session that may be in flight; more wait in their rings. Each costs a slot of some kilobytes. */
export const MAX_IN_FLIGHT = 4096;
