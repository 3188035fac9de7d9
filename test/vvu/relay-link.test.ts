/** The driver's side of the relay's wire, message by message, with a clock of its own: a relay that dies, or only stops for a while. */
import type { EventLoop } from '../../src/sys/event-loop.ts';
import { Control, controlMessage, u32Message, u32Of, welcomeMessage } from '../../src/vvu/control-messages.ts';
import { RelayLink } from '../../src/vvu/driver/relay-link.ts';
import { FakeLoop } from '../support/fake-loop.ts';
import { header, u32s } from '../support/front-end.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('vvu relay link');
const PING_MS = 5000;

class Rig {
  readonly loop = new FakeLoop();
  readonly sent: Uint8Array[] = [];
  readonly told: string[] = [];
  readonly link = new RelayLink({
    loop: this.loop as unknown as EventLoop,
    send: (message) => this.sent.push(message),
    events: {
      linkUp: () => this.told.push('up'),
      linkDown: (reason) => this.told.push(`down: ${reason}`),
      linkInterrupted: () => this.told.push('interrupted'),
      drainMessages: () => true,
    },
  });

  /** Ids of what was sent since the last call. */
  ids(): number[] {
    return this.sent.splice(0).map((m) => new DataView(m.buffer).getUint32(0, true));
  }

  says(message: Uint8Array): boolean {
    return this.link.intercept(message);
  }

  wait(ms: number): void {
    this.loop.now += ms * 1e6;
    this.loop.pass();
  }

  linked(): this {
    this.link.begin();
    this.says(welcomeMessage(4, 2 ** 30, new Uint8Array(16)));
    this.says(controlMessage(Control.LINK_UP));
    this.ids();
    return this;
  }
}

test('HELLO comes first; PING goes on as long as it is answered', () => {
  const rig = new Rig();
  rig.link.begin();
  assert.equal(rig.ids(), [Control.HELLO, Control.PING]);
  assert.is(rig.link.hint, 'the relay has not answered yet');
  rig.says(welcomeMessage(4, 2 ** 30, new Uint8Array(16)));
  assert.is(rig.link.hint, 'no compute VM is connected to the relay');
  for (let i = 0; i < 3; i++) {
    rig.says(controlMessage(Control.PONG));
    rig.wait(PING_MS);
    assert.equal(rig.ids(), [Control.PING]);
  }
  assert.equal(rig.told, []);
});

test('a relay that does not answer for two beats has died: the operator is told what not to do, the session ends', () => {
  const rig = new Rig().linked();
  assert.is(rig.link.hint, null);
  rig.wait(PING_MS);
  assert.ok(rig.link.up, 'a PING is on its way');
  rig.wait(PING_MS);
  assert.not(rig.link.up);
  assert.equal(rig.told, ['up', 'down: the relay does not answer']);
  assert.match(rig.link.hint ?? '', /Do not restart this target .* restart the appliance VM/);
  assert.equal(rig.ids(), [Control.PING, Control.LINK_CLOSE]);
  rig.wait(PING_MS);
  assert.equal(rig.ids(), [], 'nobody reads what would be sent');
});

test('one that was only stopped hangs up on the compute VM, and serves the next connection', () => {
  const rig = new Rig().linked();
  rig.wait(PING_MS);
  rig.wait(PING_MS);
  rig.says(controlMessage(Control.PONG));
  rig.says(controlMessage(Control.LINK_DOWN));
  assert.equal(rig.ids(), [Control.PING, Control.LINK_CLOSE, Control.LINK_ENDED]);
  rig.wait(PING_MS);
  assert.is(rig.link.hint, 'no compute VM is connected to the relay');
  assert.equal(rig.ids(), [Control.PING]);
  rig.says(controlMessage(Control.LINK_UP));
  assert.ok(rig.link.up);
  assert.equal(rig.told, ['up', 'down: the relay does not answer', 'up']);
});

test('another version of the wire is said, and no link comes of it', () => {
  const rig = new Rig();
  rig.link.begin();
  const welcome = welcomeMessage(4, 2 ** 30, new Uint8Array(16));
  welcome[12] = 9;
  rig.says(welcome);
  assert.match(rig.link.hint ?? '', /version 9 of the wire, this driver 1/);
  rig.says(controlMessage(Control.LINK_UP));
  assert.not(rig.link.up);
});

test('MAP_REQUEST is granted at once, with its generation', () => {
  const rig = new Rig().linked();
  rig.says(u32Message(Control.MAP_REQUEST, 0xffff_fffe));
  const [grant] = rig.sent;
  assert.is(u32Of(grant.subarray(12)), 0xffff_fffe);
});

test('a generation is given back once: when its last mapping goes, or when nobody took it', () => {
  const rig = new Rig().linked();
  const table = (generation: number) => new Uint8Array(Buffer.concat([header(5, 1, 8), u32s(0, generation)]));
  assert.not(rig.says(table(7)), "it is the session's");
  const taken = rig.link.takeGeneration(2);
  rig.link.messageDone();
  rig.link.released(taken);
  assert.equal(rig.ids(), []);
  rig.link.released(taken);
  assert.equal(rig.ids(), [Control.MEMORY_RELEASED]);
  rig.says(table(8));
  rig.link.messageDone();
  rig.link.messageDone();
  assert.equal(rig.ids(), [Control.MEMORY_RELEASED], 'refused: once');
  const short = new Uint8Array(Buffer.concat([header(5, 1, 4), Buffer.alloc(4)]));
  rig.says(short);
  rig.link.messageDone();
  assert.equal(rig.ids(), [], 'there is no generation in it');
});

test('the end waits for FAREWELL, but not for ever', () => {
  for (const farewell of [true, false]) {
    const rig = new Rig().linked();
    let over = 0;
    rig.link.end(() => over++);
    assert.equal(rig.ids(), [Control.GOODBYE]);
    assert.is(over, 0);
    if (farewell) rig.says(controlMessage(Control.FAREWELL));
    else rig.wait(3000);
    assert.is(over, 1);
    rig.says(controlMessage(Control.FAREWELL));
    rig.wait(2 * PING_MS);
    assert.is(over, 1);
    assert.equal(rig.ids(), []);
  }
});

test.run();
