/**
 * Protocol features that work through a relay: those whose messages bring no descriptor, or one that the relay has a use for. What the relay
 * lets pass, and what the driver of its device asks for.
 */
import { ProtocolFeature } from '../vhost/messages.ts';

export const RELAYED_FEATURES = [
  ProtocolFeature.MQ,
  ProtocolFeature.REPLY_ACK,
  // For block devices: their config space, and the news that it has changed.
  ProtocolFeature.CONFIG,
  ProtocolFeature.BACKEND_REQ,
  ProtocolFeature.INFLIGHT_SHMFD,
  ProtocolFeature.RESET_DEVICE,
  ProtocolFeature.STATUS,
].reduce((word, n) => word | (1n << BigInt(n)), 0n);
