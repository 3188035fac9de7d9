/**
 * Messages that are wrong in themselves (anchors: size, version, flags, descriptors, order of bytes). Each ends the
 * session with a reason, leaks nothing, and leaves the controller ready for the next front end.
 */
import { EventFd } from '../../src/sys/eventfd.ts';
import { sendWithFds } from '../../src/sys/socket.ts';
import { MESSAGES } from '../../src/vhost/messages.ts';
import { addrBytes, header, ID, inflightBytes, NEED_REPLY, pump, u32s, u64 } from '../support/front-end.ts';
import { assert, suite } from '../support/suite.ts';
import { type Rig, withRig } from './rig.ts';

const test = suite('vhost bad messages');

/** A fresh front end sends these bytes; the session must end, and another must be served. */
function ends(rig: Rig, bytes: Uint8Array, expected: RegExp, fds = 0): void {
  const frontEnd = rig.connect();
  const events = Array.from({ length: fds }, () => new EventFd());
  frontEnd.raw(
    bytes,
    events.map((e) => e.fd),
  );
  for (const e of events) e.close();
  const reason = rig.waitEnd();
  assert.match(reason, expected);
  assert.ok(frontEnd.hungUp, 'the socket is closed');
  const next = rig.connect();
  assert.ok(next.askU64(ID.GET_FEATURES) > 0n);
  next.close();
  rig.waitClosed();
}

const message = (id: number, payload: Uint8Array, flags = 1) =>
  Buffer.concat([header(id, flags, payload.length), payload]);

test(
  'row 13: a payload of another size than the message has',
  withRig((rig) => {
    for (const row of MESSAGES) {
      const [min, max] = row.payload;
      ends(rig, header(row.id, 1, max + 1), /payload of \d+ bytes, expected/);
      if (min > 0) ends(rig, header(row.id, 1, min - 1), /payload of \d+ bytes, expected/);
    }
  }),
);

test(
  'row 13: a payload above every limit, a size of 2^32 - 1, an unknown message of that size',
  withRig((rig) => {
    ends(rig, header(ID.SET_FEATURES, 1, 0xffff_ffff), /at most 4096/);
    ends(rig, header(999, 1, 0x1001), /at most 4096/);
  }),
);

test(
  'row 13: version, reply bit, reserved flags',
  withRig((rig) => {
    for (const version of [0, 2, 3]) ends(rig, header(ID.GET_FEATURES, version, 0), /version/);
    ends(rig, header(ID.GET_FEATURES, 5, 0), /a reply/);
    for (const flag of [0x10, 0x8000_0000]) ends(rig, header(ID.GET_FEATURES, 1 | flag, 0), /reserved flags/);
  }),
);

test(
  'a region count that the payload does not hold',
  withRig((rig) => {
    ends(rig, message(ID.SET_MEM_TABLE, u32s(2, 0)), /number of regions/);
    ends(rig, message(ID.SET_MEM_TABLE, u32s(0x1000_0001, 0)), /number of regions/);
    ends(rig, message(ID.SET_MEM_TABLE, Buffer.concat([u32s(0, 0), Buffer.alloc(32)])), /number of regions/);
  }),
);

test(
  'an unknown message ends the session, or is refused when the front end asked for an answer',
  withRig((rig) => {
    ends(rig, message(4711, Buffer.alloc(17)), /not supported/);
    const frontEnd = rig.connect();
    frontEnd.init();
    assert.is(frontEnd.tell(4711, Buffer.alloc(17), [], true), 1n);
    assert.is(frontEnd.tell(ID.SET_OWNER, undefined, [], true), 0n);
  }),
);

test(
  'row 14: descriptors with messages that have none, more than expected, fewer than expected',
  withRig((rig) => {
    for (const row of MESSAGES) {
      const payload = Buffer.alloc(row.payload[0]);
      if (row.id === ID.SET_MEM_TABLE) payload.writeUInt32LE(0);
      ends(rig, message(row.id, payload), /\d file descriptors, expected|protocol feature/, row.fds[1] + 1);
      if (row.fds[0] > 0) ends(rig, message(row.id, payload), /0 file descriptors|protocol feature/);
    }
  }),
);

test(
  'row 14: a descriptor and the flag that says there is none; neither; bits beyond the flag',
  withRig((rig) => {
    for (const id of [ID.SET_VRING_KICK, ID.SET_VRING_CALL, ID.SET_VRING_ERR]) {
      ends(rig, message(id, u64(0x100)), /flag that says there is none/, 1);
      ends(rig, message(id, u64(0)), /no descriptor/);
      ends(rig, message(id, u64(0x200)), /must be zero/, 1);
      ends(rig, message(id, u64(1n << 32n)), /must be zero/, 1);
    }
  }),
);

test(
  'row 14: more descriptors than any message may have (MSG_CTRUNC)',
  withRig((rig) => {
    ends(rig, message(ID.SET_OWNER, Buffer.alloc(0)), /more than 32 descriptors/, 40);
    ends(rig, message(ID.SET_OWNER, Buffer.alloc(0)), /32 file descriptors/, 32);
  }),
);

test(
  'row 14: descriptors that are no eventfds are not watched and not written to',
  withRig((rig) => {
    for (const id of [ID.SET_VRING_KICK, ID.SET_VRING_CALL, ID.SET_VRING_ERR]) {
      const frontEnd = rig.connect();
      frontEnd.send(id, u64(0), 1, [frontEnd.guest.regions[0].fd]);
      assert.match(rig.waitEnd(), /expected an eventfd/);
      frontEnd.close();
    }
  }),
);

test(
  'the front end goes away at every byte of a conversation, with descriptors on the way',
  withRig((rig) => {
    const event = new EventFd();
    const whole = Buffer.concat([message(ID.GET_FEATURES, Buffer.alloc(0)), message(ID.SET_VRING_CALL, u64(0))]);
    for (let cut = 0; cut <= whole.length; cut++) {
      const frontEnd = rig.connect();
      frontEnd.raw(whole.subarray(0, 12));
      if (cut > 12) frontEnd.raw(whole.subarray(12, cut), [event.fd]);
      for (let i = 0; i < 3; i++) rig.loop.turn(0);
      frontEnd.close();
      rig.waitClosed();
    }
    event.close();
  }),
);

test(
  'a message in single bytes is a message',
  withRig((rig) => {
    const frontEnd = rig.connect();
    for (const byte of message(ID.SET_VRING_NUM, u32s(2, 64))) {
      frontEnd.raw(Uint8Array.of(byte));
      rig.loop.turn(0);
    }
    assert.is(frontEnd.askU64(ID.GET_QUEUE_NUM), 128n);
    assert.is(rig.vring(2)['size'], 64);
  }),
);

test(
  'a front end that asks and never reads stops itself, and nobody else',
  withRig((rig) => {
    const greedy = rig.connect();
    const question = message(ID.GET_FEATURES, Buffer.alloc(0));
    const many = Buffer.concat(Array.from({ length: 64 }, () => question));
    let sent = 0;
    // Until both socket buffers are full: the sender gives up after some passes without progress.
    for (let idle = 0; idle < 50; ) {
      const before = sent;
      try {
        sent += Math.max(0, sendWithFds(greedy.socket, many));
      } catch {
        break;
      }
      rig.loop.turn(0);
      idle = sent === before ? idle + 1 : 0;
    }
    assert.ok(sent > 10_000);
    const polite = rig.connect();
    assert.ok(polite.askU64(ID.GET_FEATURES) > 0n);
    greedy.close();
    polite.close();
    rig.waitClosed();
  }),
);

test(
  'row 21: need_reply before it was negotiated is not answered',
  withRig((rig) => {
    const frontEnd = rig.connect();
    frontEnd.send(ID.SET_OWNER, undefined, 1 | NEED_REPLY);
    // The next answer is that of the question, not an acknowledgement.
    frontEnd.askU64(ID.GET_FEATURES);
  }),
);

test(
  'row 21: each message that has no reply of its own is acknowledged when asked, each refusal is a refusal',
  withRig((rig) => {
    const frontEnd = rig.connect();
    frontEnd.init();
    const event = new EventFd();
    const ok = (id: number, payload?: Uint8Array, fds = [] as (typeof event.fd)[]) =>
      assert.is(frontEnd.tell(id, payload, fds, true), 0n, `message ${id}`);
    const no = (id: number, payload?: Uint8Array, fds = [] as (typeof event.fd)[]) =>
      assert.is(frontEnd.tell(id, payload, fds, true), 1n, `message ${id}`);
    ok(ID.SET_FEATURES, u64(frontEnd.offered));
    ok(ID.SET_OWNER);
    ok(ID.RESET_OWNER);
    ok(ID.SET_VRING_NUM, u32s(0, 256));
    ok(ID.SET_VRING_BASE, u32s(0, 0xffff));
    ok(ID.SET_VRING_ADDR, addrBytes(0, 0x1000, 0x2000, 0x3000));
    ok(ID.SET_VRING_ENABLE, u32s(127, 1));
    ok(ID.SET_VRING_CALL, u64(0), [event.fd]);
    ok(ID.SET_VRING_ERR, u64(0), [event.fd]);
    ok(ID.SET_VRING_KICK, u64(0), [event.fd]);
    ok(ID.SET_STATUS, u64(15));
    ok(ID.RESET_DEVICE);
    ok(ID.SET_PROTOCOL_FEATURES, u64(frontEnd.protocol));
    // Row 16: indices. Row 20: values out of range.
    no(ID.SET_VRING_NUM, u32s(128, 128));
    no(ID.SET_VRING_NUM, u32s(0, 0));
    no(ID.SET_VRING_NUM, u32s(0, 100));
    no(ID.SET_VRING_NUM, u32s(0, 2048));
    no(ID.SET_VRING_NUM, u32s(0, 0x1_0000));
    no(ID.SET_VRING_BASE, u32s(0, 0x1_0000));
    no(ID.SET_VRING_BASE, u32s(0xffff_ffff, 0));
    no(ID.SET_VRING_ADDR, addrBytes(200, 0, 0, 0));
    no(ID.SET_VRING_ENABLE, u32s(0, 2));
    no(ID.SET_VRING_ENABLE, u32s(300, 1));
    no(ID.SET_VRING_KICK, u64(200), [event.fd]);
    no(ID.SET_VRING_CALL, u64(255), [event.fd]);
    no(ID.SET_STATUS, u64(0x100));
    no(ID.SET_INFLIGHT_FD, inflightBytes(4096, 0, 1, 128), [event.fd]);
    no(ID.ADD_MEM_REG, Buffer.alloc(40), [event.fd]);
    no(ID.REM_MEM_REG, Buffer.alloc(40));
    no(ID.SET_CONFIG, u32s(0, 0, 0)); // there is no config space
    assert.is(frontEnd.askU64(ID.GET_STATUS), 0n);
    event.close();
    pump(rig.loop, () => true);
  }),
);

test(
  'row 16: GET_VRING_BASE of a vring that there is not has no answer but the end',
  withRig((rig) => {
    ends(rig, message(ID.GET_VRING_BASE, u32s(128, 0)), /vring 128/);
    ends(rig, message(ID.GET_INFLIGHT_FD, inflightBytes(0, 0, 129, 128)), /129 queues/);
    ends(rig, message(ID.GET_INFLIGHT_FD, inflightBytes(0, 0, 3, 0)), /queues of 0/);
    ends(rig, message(ID.GET_INFLIGHT_FD, inflightBytes(0, 0, 3, 0x8000)), /queues of 32768/);
  }),
);

test(
  'more front ends than a controller takes are turned away',
  withRig((rig) => {
    const all = Array.from({ length: 17 }, () => rig.connect());
    pump(rig.loop, () => all[16].hungUp, 'the last to be turned away');
    assert.is(rig.server.sessions.size, 16);
    assert.ok(all[15].askU64(ID.GET_FEATURES) > 0n);
  }),
);

test.run();
