import { MessageChannel } from 'node:worker_threads';
import { EPOLL, O } from '../../src/sys/constants.ts';
import type { SysError } from '../../src/sys/errno.ts';
import { EventLoop, type EventLoopOptions, type Poller } from '../../src/sys/event-loop.ts';
import { EventFd } from '../../src/sys/eventfd.ts';
import { closeAll, Fd, open } from '../../src/sys/fd.ts';
import { getLimit, setLimit } from '../../src/sys/limits.ts';
import { memfd } from '../../src/sys/mapping.ts';
import { sendWithFds, socketPair } from '../../src/sys/socket.ts';
import { startWorker } from '../../src/sys/worker.ts';
import { runChild } from '../support/child.ts';
import { leakedFds, openFds } from '../support/open-fds.ts';
import { assert, suite } from '../support/suite.ts';

const suiteOf = suite('event loop');

/** A loop that fails the test on any failure of a handler, and is closed after it. */
let loops: EventLoop[] = [];
function makeLoop(options: EventLoopOptions = {}): EventLoop {
  const loop = new EventLoop({
    onError: (error) => {
      throw error;
    },
    ...options,
  });
  loops.push(loop);
  return loop;
}

/** A test that leaves as many descriptors as there were. (A failing hook would go unseen.) */
function test(name: string, body: () => void | Promise<void>): void {
  suiteOf(name, async () => {
    const before = openFds();
    try {
      await body();
    } finally {
      for (const loop of loops) loop.close();
      loops = [];
    }
    assert.equal(leakedFds(before), []);
  });
}

/** A poller that does what the test says and keeps a record. */
class Scripted implements Poller {
  log: string[] = [];
  work: number[] = [];
  late: boolean[] = [];
  armed = false;
  onPoll: () => void = () => {};
  poll(): number {
    assert.is(this.armed, false, 'polled while armed');
    this.log.push('poll');
    this.onPoll();
    return this.work.shift() ?? 0;
  }
  arm(): boolean {
    assert.is(this.armed, false);
    this.armed = true;
    this.log.push('arm');
    return this.late.shift() ?? false;
  }
  disarm(): void {
    assert.is(this.armed, true);
    this.armed = false;
    this.log.push('disarm');
  }
}

test('a handler is called while its descriptor is readable', () => {
  const loop = makeLoop();
  const event = new EventFd();
  let calls = 0;
  const watch = loop.watch(event.fd.number, (events) => {
    calls++;
    assert.is(events, EPOLL.IN);
  });
  assert.is(loop.turn(0), false);
  event.signal();
  assert.is(loop.turn(0), true);
  assert.is(loop.turn(0), true); // level-triggered: not drained
  assert.is(calls, 2);
  event.drain();
  assert.is(loop.turn(0), false);
  event.signal();
  watch.close();
  watch.close();
  assert.is(loop.turn(0), false);
  assert.is(calls, 2);
  event.close();
});

test('events can be chosen and changed', () => {
  const loop = makeLoop();
  const [a, b] = socketPair();
  const seen: number[] = [];
  const watch = loop.watch(a.number, (events) => seen.push(events), 0);
  sendWithFds(b, Uint8Array.of(1));
  assert.is(loop.turn(0), false);
  watch.modify(EPOLL.OUT);
  loop.turn(0);
  watch.modify(EPOLL.IN | EPOLL.OUT);
  loop.turn(0);
  watch.modify(EPOLL.IN);
  loop.turn(0);
  assert.equal(seen, [EPOLL.OUT, EPOLL.IN | EPOLL.OUT, EPOLL.IN]);
  b.close();
  watch.modify(0);
  loop.turn(0);
  assert.is(seen[3], EPOLL.HUP); // comes unasked
  watch.close();
  watch.modify(EPOLL.IN); // closed: nothing to change
  a.close();
});

test('what cannot be watched is refused', () => {
  const loop = makeLoop();
  const event = new EventFd();
  const file = memfd('x', 1);
  assert.throws(
    () => loop.watch(2 ** 30, () => {}),
    (e: SysError) => e.code === 'EBADF',
  );
  assert.throws(
    () => loop.watch(-1, () => {}),
    (e: SysError) => e.code === 'EBADF',
  );
  assert.throws(
    () => loop.watch(file.number, () => {}),
    (e: SysError) => e.code === 'EPERM',
  );
  const watch = loop.watch(event.fd.number, () => {});
  assert.throws(
    () => loop.watch(event.fd.number, () => {}),
    (e: SysError) => e.code === 'EEXIST',
  );
  event.signal();
  assert.is(loop.turn(0), true); // the first one still stands
  watch.close();
  closeAll([event.fd, file]);
});

test('a handler may close its own watch and others with events in the same batch', () => {
  const loop = makeLoop();
  const events = [new EventFd(), new EventFd(), new EventFd()];
  let calls = 0;
  const watches = events.map((event) =>
    loop.watch(event.fd.number, () => {
      calls++;
      for (const watch of watches) watch.close();
    }),
  );
  for (const event of events) event.signal();
  assert.is(loop.turn(0), true);
  assert.is(calls, 1);
  assert.is(loop.turn(0), false);
  for (const event of events) event.close();
});

test('an event of a closed descriptor never reaches a new watch with its number', () => {
  const loop = makeLoop();
  const events = [new EventFd(), new EventFd()];
  const log: string[] = [];
  const fresh: EventFd[] = [];
  const watches = events.map((event) =>
    loop.watch(event.fd.number, () => {
      log.push('old');
      // Both go, and both numbers come back as other files, unsignalled, in the middle of the batch.
      const numbers = events.map((e) => e.fd.number);
      for (const watch of watches) watch.close();
      for (const e of events) e.close();
      fresh.push(new EventFd(), new EventFd());
      assert.equal(
        fresh.map((e) => e.fd.number),
        numbers,
      );
      for (const e of fresh) loop.watch(e.fd.number, () => log.push('new'));
    }),
  );
  for (const event of events) event.signal();
  loop.turn(0);
  loop.turn(0);
  assert.equal(log, ['old']);
  fresh[1].signal();
  loop.turn(0);
  assert.equal(log, ['old', 'new']);
  loop.close();
  for (const e of fresh) e.close();
});

test('a descriptor closed before its watch, whose file lives on elsewhere, does not keep the loop busy', () => {
  for (const [reuse, turnBetween] of [
    [false, false],
    [true, false],
    [true, true],
  ]) {
    const loop = makeLoop();
    const event = new EventFd();
    const peer = event.fd.duplicate(); // as the front end has one
    const number = event.fd.number;
    let calls = 0;
    const watch = loop.watch(number, () => calls++);
    const other = new EventFd();
    let others = 0;
    loop.watch(other.fd.number, () => {
      others++;
      other.drain();
    });
    event.signal();
    event.close(); // the wrong order
    const again = reuse ? new EventFd() : undefined;
    let news = 0;
    if (again !== undefined) {
      assert.is(again.fd.number, number);
      loop.watch(again.fd.number, () => {
        news++;
        again.drain();
      });
    }
    if (turnBetween) loop.turn(0);
    watch.close();
    loop.turn(0);
    loop.turn(0);
    assert.is(calls, 0);
    const passes = loop.stats.passes;
    assert.is(loop.turn(50), false); // sleeps: nothing reports any more
    assert.is(loop.stats.passes, passes + 1);
    other.signal();
    again?.signal();
    loop.turn(0);
    assert.equal([others, news], [1, reuse ? 1 : 0]); // and the living are heard
    loop.close();
    closeAll([peer, other.fd]);
    again?.close();
  }
});

test('no descriptor is left for a fresh set: the loop goes on with the old one, and says so once', () => {
  const errors: SysError[] = [];
  const loop = makeLoop({ onError: (e) => errors.push(e as SysError) });
  const other = new EventFd();
  let others = 0;
  loop.watch(other.fd.number, () => {
    others++;
    other.drain();
  });
  const event = new EventFd();
  const { number } = event.fd;
  const peer = event.fd.duplicate();
  const watch = loop.watch(number, () => assert.unreachable());
  event.signal();
  event.close(); // the wrong order
  watch.close();
  const limit = getLimit('NOFILE');
  setLimit('NOFILE', { ...limit, soft: 64 });
  const all: Fd[] = [];
  try {
    assert.throws(() => {
      for (;;) all.push(open('/dev/null', O.RDONLY));
    }, /EMFILE/);
    other.signal();
    for (let i = 0; i < 3; i++) loop.turn(0);
    assert.is(others, 1);
    assert.equal(
      errors.map((e) => e.code),
      ['EMFILE'],
    );
    // It comes back under a number that the old set knows: who watches it is told.
    all.find((fd) => fd.number === number)?.close();
    const back = peer.duplicate();
    assert.is(back.number, number);
    assert.throws(() => loop.watch(number, () => {}), /EMFILE/);
    back.close();
  } finally {
    closeAll(all);
    setLimit('NOFILE', limit);
  }
  loop.turn(0);
  assert.is(loop.turn(20), false, 'it sleeps again');
  other.signal();
  loop.turn(0);
  assert.is(others, 2);
  assert.is(errors.length, 1);
  loop.close();
  closeAll([peer, other.fd]);
});

test('the same file received again under the number of one closed before its watch', () => {
  const errors: unknown[] = [];
  const loop = makeLoop({ onError: (e) => errors.push(e) });
  const event = new EventFd();
  const number = event.fd.number;
  const peer = event.fd.duplicate();
  const old = loop.watch(number, () => assert.unreachable());
  event.close();
  old.close();
  const back = peer.duplicate();
  assert.is(back.number, number);
  let calls = 0;
  loop.watch(back.number, () => calls++);
  new EventFd(peer).signal();
  loop.turn(0);
  assert.is(calls, 1);
  loop.close();
  closeAll([back, peer]);
  assert.equal(errors, []);
});

test('more ready descriptors than one wait takes: all are served', () => {
  const loop = makeLoop();
  const events = Array.from({ length: 200 }, () => new EventFd());
  let calls = 0;
  for (const event of events) {
    loop.watch(event.fd.number, () => {
      event.drain();
      calls++;
    });
    event.signal();
  }
  for (let i = 0; i < 4; i++) loop.turn(0);
  assert.is(calls, 200);
  loop.close();
  for (const event of events) event.close();
});

test('timers: in order, not early, cancelled, never within the pass that made them', () => {
  const loop = makeLoop();
  const log: string[] = [];
  let again = false;
  const start = loop.now;
  loop.after(20, () => log.push('b'));
  const c = loop.after(25, () => log.push('never'));
  loop.after(5, () => {
    log.push('a');
    c.cancel();
    c.cancel();
    const pass = loop.stats.passes;
    loop.after(0, () => {
      again = loop.stats.passes > pass;
      assert.ok(loop.now > start + 5e6);
    });
    loop.after(20, () => log.push('c'));
  });
  const once = loop.after(1000, () => assert.unreachable());
  while (!log.includes('c')) loop.turn(100);
  assert.equal(log, ['a', 'b', 'c']);
  assert.is(again, true);
  assert.ok(loop.now - start >= 25e6);
  once.cancel();
  // One that makes itself again at once does not hold up the pass.
  let runs = 0;
  const repeat = () => {
    if (++runs < 5) loop.after(-1, repeat);
  };
  loop.after(0, repeat);
  loop.turn(100);
  assert.ok(runs <= 2);
  while (runs < 5) loop.turn(100);
});

test('equal times keep their order', () => {
  const loop = makeLoop();
  const log: number[] = [];
  for (let i = 0; i < 50; i++) loop.after(-1, () => log.push(i)); // the past counts as at once
  while (log.length < 50) loop.turn(10);
  assert.equal(
    log,
    Array.from({ length: 50 }, (_, i) => i),
  );
});

test('deferred calls come at the next pass, in order, and keep the loop awake', () => {
  const loop = makeLoop();
  const log: string[] = [];
  loop.defer(() => {
    log.push('1');
    loop.defer(() => log.push('3'));
  });
  loop.defer(() => log.push('2'));
  const sleeps = loop.stats.sleeps;
  assert.is(loop.turn(100), true);
  assert.equal(log, ['1', '2']);
  assert.is(loop.turn(100), true);
  assert.equal(log, ['1', '2', '3']);
  assert.is(loop.stats.sleeps, sleeps);
  assert.is(loop.turn(1), false);
  assert.is(loop.stats.sleeps, sleeps + 1);
});

test('pollers: polled while there is work, then armed, then asleep, then disarmed', () => {
  const loop = makeLoop({ spinMicroseconds: 0 });
  const poller = new Scripted();
  poller.work = [3, 1];
  loop.addPoller(poller);
  assert.is(loop.turn(10), true);
  assert.is(loop.turn(10), true);
  assert.is(loop.stats.sleeps, 0);
  assert.is(loop.turn(1), false);
  assert.equal(poller.log, ['poll', 'poll', 'poll', 'arm', 'disarm']);
  assert.is(loop.stats.sleeps, 1);
  assert.throws(() => loop.addPoller(poller), /there already/);
});

test('the spin time is spent polling', () => {
  const loop = makeLoop({ spinMicroseconds: 3_600_000_000 });
  const poller = new Scripted();
  poller.work = [1];
  loop.addPoller(poller);
  for (let i = 0; i < 100; i++) loop.turn(100);
  assert.is(loop.stats.sleeps, 0);
  const always = makeLoop({ spinMicroseconds: 0, alwaysPoll: true });
  for (let i = 0; i < 100; i++) always.turn(100);
  assert.is(always.stats.sleeps, 0);
});

test('work that came just before arming is seen: nobody sleeps', () => {
  const loop = makeLoop({ spinMicroseconds: 0 });
  const [first, racy, last] = [new Scripted(), new Scripted(), new Scripted()];
  for (const poller of [first, racy, last]) loop.addPoller(poller);
  racy.late = [true];
  assert.is(loop.turn(10_000), true); // would be a long sleep
  assert.is(loop.stats.sleeps, 0);
  assert.equal(first.log, ['poll', 'arm', 'disarm']);
  assert.equal(racy.log, ['poll', 'arm', 'disarm']);
  assert.equal(last.log, ['poll']); // not armed, so not disarmed
});

test('something deferred while arming keeps the loop awake', () => {
  const loop = makeLoop({ spinMicroseconds: 0 });
  const poller = new Scripted();
  let called = false;
  poller.arm = () => {
    poller.armed = true;
    if (!called)
      loop.defer(() => {
        called = true;
      });
    return false;
  };
  loop.addPoller(poller);
  loop.turn(10_000);
  assert.is(loop.stats.sleeps, 0);
  loop.turn(0);
  assert.is(called, true);
});

test('turn(0) never arms', () => {
  const loop = makeLoop({ spinMicroseconds: 0 });
  const poller = new Scripted();
  loop.addPoller(poller);
  for (let i = 0; i < 3; i++) loop.turn(0);
  assert.equal(poller.log, ['poll', 'poll', 'poll']);
});

test('pollers come and go while the loop polls', () => {
  const loop = makeLoop();
  const [a, b, c, d] = [new Scripted(), new Scripted(), new Scripted(), new Scripted()];
  a.onPoll = () => {
    loop.removePoller(a);
    loop.removePoller(b);
    loop.addPoller(d);
  };
  for (const poller of [a, b, c]) loop.addPoller(poller);
  loop.turn(0);
  loop.turn(0);
  assert.equal([a.log.length, b.log.length, c.log.length, d.log.length], [1, 0, 2, 2]);
  loop.removePoller(b); // not there: harmless
  loop.addPoller(b);
  loop.turn(0);
  assert.is(b.log.length, 1);
});

test('a poller removed by a handler after a sleep is left alone', () => {
  const loop = makeLoop({ spinMicroseconds: 0 });
  const poller = new Scripted();
  loop.addPoller(poller);
  const event = new EventFd();
  loop.watch(event.fd.number, () => {
    event.drain();
    loop.removePoller(poller);
  });
  event.signal();
  assert.is(loop.turn(1000), true);
  assert.equal(poller.log, ['poll', 'arm', 'disarm']);
  loop.turn(1);
  assert.is(poller.log.length, 3);
  assert.is(loop.stats.wakes, 1);
  loop.close();
  event.close();
});

test('a failure in any handler is reported, and the rest goes on', () => {
  const errors: string[] = [];
  const loop = makeLoop({ spinMicroseconds: 0, onError: (e) => errors.push((e as Error).message) });
  const fail = (what: string) => () => {
    throw new Error(what);
  };
  const event = new EventFd();
  event.signal();
  const good = new Scripted();
  const bad: Poller = { poll: fail('poll'), arm: fail('arm'), disarm: fail('disarm') };
  loop.addPoller(bad);
  loop.addPoller(good);
  loop.watch(event.fd.number, fail('watch'));
  loop.after(0, fail('timer'));
  loop.defer(fail('defer'));
  let deferred = false;
  loop.defer(() => {
    deferred = true;
  });
  loop.turn(100);
  loop.turn(100);
  for (const what of ['poll', 'arm', 'disarm', 'watch', 'timer', 'defer']) assert.ok(errors.includes(what), what);
  assert.ok(deferred);
  assert.ok(good.log.includes('arm') && !good.armed);
  assert.is(loop.stats.errors, errors.length);
  loop.close();
  event.close();
});

test('without a hook failures are logged, ever more rarely', () => {
  const child = runChild(`
    import { EventLoop } from '<root>/src/sys/event-loop.ts';
    const loop = new EventLoop();
    loop.addPoller({ poll() { throw new Error('bug'); }, arm: () => false, disarm() {} });
    for (let i = 0; i < 1000; i++) loop.turn(0);
    loop.close();
  `);
  assert.is(child.end, 0);
  assert.is([...child.stderr.matchAll(/vvu:loop failure \d+ in a handler: Error: bug/g)].length, 10);
});

test('a turn within a turn is a bug', () => {
  const errors: unknown[] = [];
  const loop = makeLoop({ onError: (e) => errors.push(e) });
  loop.defer(() => loop.turn(0));
  loop.turn(0);
  assert.match(String(errors[0]), /turn\(\) within turn/);
  assert.is(loop.turn(0), false); // and the loop is not stuck
});

test('run: until stop, and Node gets its turns', async () => {
  const loop = makeLoop({ spinMicroseconds: 0 });
  const { port1, port2 } = new MessageChannel();
  let message = '';
  port1.on('message', (m) => {
    message = m;
  });
  port2.postMessage('hello');
  let promised = false;
  void Promise.resolve().then(() => {
    promised = true;
  });
  const wait = () => {
    if (message !== '' && promised) loop.stop();
    else loop.after(1, wait);
  };
  wait();
  await loop.run();
  assert.is(message, 'hello');
  port1.close();
});

test('an idle loop sleeps', async () => {
  const loop = makeLoop();
  const poller = new Scripted();
  loop.addPoller(poller);
  loop.after(700, () => loop.stop());
  const cpu = process.cpuUsage();
  await loop.run();
  const used = process.cpuUsage(cpu);
  // Asleep from the first 200 microseconds on: until the timer, give or take the clock of the kernel's sleep.
  const { sleeps, passes, wakes } = loop.stats;
  assert.ok(sleeps >= 1 && sleeps <= 12, `${sleeps} sleeps`);
  assert.is(wakes, 0);
  assert.ok(passes - sleeps < 5000, `${passes} passes`);
  assert.ok(used.user + used.system < 350_000, `${used.user + used.system} us of CPU`);
  assert.ok(loop.stats.idleNs > 500e6);
});

test('no wake-up is lost between arming and sleeping', async () => {
  const loop = makeLoop({ spinMicroseconds: 20 });
  const COUNT = 20_000;
  const shared = new SharedArrayBuffer(12);
  const words = new Int32Array(shared);
  const kick = new EventFd();
  let seen = 0;
  let lost = 0;
  let wakes = 0;
  let sleeping = false;
  loop.addPoller({
    poll() {
      const published = Atomics.load(words, 0);
      if (published === seen) return 0;
      // Work found after a sleep that no kick ended: the kick was lost, the time limit saved us.
      if (sleeping && loop.stats.wakes === wakes) lost++;
      sleeping = false;
      seen = published;
      Atomics.store(words, 2, seen);
      Atomics.notify(words, 2);
      if (seen === COUNT) loop.stop();
      return 1;
    },
    arm() {
      sleeping = true;
      wakes = loop.stats.wakes;
      Atomics.store(words, 1, 1); // ask, then look again: StoreLoad
      const late = Atomics.load(words, 0) !== seen;
      if (late) sleeping = false;
      return late;
    },
    disarm() {
      Atomics.store(words, 1, 0);
    },
  });
  loop.watch(kick.fd.number, () => kick.drain());
  const bell = kick.fd.duplicate().release();
  const worker = startWorker(new URL('./threads/producer.ts', import.meta.url), { shared, bell, count: COUNT });
  const exit = new Promise((resolve) => worker.once('exit', resolve));
  await loop.run();
  await exit;
  assert.is(seen, COUNT);
  assert.is(lost, 0);
  assert.ok(loop.stats.sleeps > 10, `only ${loop.stats.sleeps} sleeps`); // it was a test of something
  loop.close();
  kick.close();
  Fd.take(bell).close();
});

test('a pass allocates nothing', () => {
  const child = runChild(
    `
    import { EventLoop } from '<root>/src/sys/event-loop.ts';
    import { EventFd } from '<root>/src/sys/eventfd.ts';
    const loop = new EventLoop({ alwaysPoll: true });
    const event = new EventFd();
    let done = 0;
    loop.watch(event.fd.number, () => { event.drain(); done++; });
    for (let i = 0; i < 3; i++) loop.addPoller({ poll: () => ++done & 1, arm: () => false, disarm() {} });
    const passes = (n) => { for (let i = 0; i < n; i++) { if ((i & 15) === 0) event.signal(); loop.turn(i & 1); } };
    passes(50000);
    gc();
    const before = process.memoryUsage().heapUsed;
    passes(200000);
    console.log((process.memoryUsage().heapUsed - before) / 200000);
    loop.close();
    event.close();
  `,
    ['--expose-gc'],
  );
  assert.is(child.end, 0, child.stderr);
  assert.ok(Number(child.stdout) < 24, `${child.stdout.trim()} bytes a pass`);
});

const settle = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Wait on Node's event loop until something holds; the test file's own time limit is the only one. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await settle(1);
}

test('attached: events, timers and pollers run on Node’s event loop', async () => {
  const loop = makeLoop({ spinMicroseconds: 100 });
  const event = new EventFd();
  const poller = new Scripted();
  let calls = 0;
  loop.watch(event.fd.number, () => {
    event.drain();
    calls++;
    poller.work = [1, 1, 1];
  });
  loop.addPoller(poller);
  loop.attach();
  loop.attach();
  await until(() => poller.armed); // asleep in Node's loop
  const passes = loop.stats.passes;
  await settle(100);
  assert.is(loop.stats.passes, passes); // not a single pass while idle
  event.signal();
  await until(() => calls === 1 && poller.work.length === 0 && poller.armed);
  let timer = false;
  loop.after(5, () => {
    timer = true;
  });
  await until(() => timer && poller.armed);
  let deferred = false;
  loop.defer(() => {
    deferred = true;
  });
  await until(() => deferred && poller.armed);
  const late = new Scripted();
  loop.addPoller(late);
  await until(() => late.armed);
  event.signal();
  loop.turn(0); // by hand in between
  await until(() => poller.armed);
  assert.is(calls, 2);
  loop.detach();
  assert.is(poller.armed, false);
  event.signal();
  await settle(20);
  assert.is(calls, 2);
  loop.attach(); // and again
  await until(() => calls === 3);
  loop.close();
  event.close();
});

test('attached: a descriptor closed before its watch', async () => {
  const loop = makeLoop();
  const idle = new Scripted();
  loop.addPoller(idle);
  loop.attach();
  const event = new EventFd();
  const peer = event.fd.duplicate();
  const other = new EventFd();
  let others = 0;
  loop.watch(other.fd.number, () => {
    others++;
    other.drain();
  });
  const watch = loop.watch(event.fd.number, () => {});
  await until(() => idle.armed);
  event.close();
  watch.close();
  new EventFd(peer).signal();
  await settle(20);
  await until(() => idle.armed);
  const passes = loop.stats.passes;
  await settle(50);
  assert.is(loop.stats.passes, passes);
  other.signal();
  await until(() => others === 1);
  loop.close();
  closeAll([peer, other.fd]);
});

test('attached: the process lives until detach', () => {
  const child = runChild(`
    import { EventLoop } from '<root>/src/sys/event-loop.ts';
    const loop = new EventLoop();
    loop.attach();
    setTimeout(() => { console.log('still there'); loop.detach(); }, 100);
    process.on('exit', () => console.log('end'));
  `);
  assert.equal([child.end, child.stdout], [0, 'still there\nend\n']);
});

test('close: nothing is called any more, twice is harmless', () => {
  const loop = makeLoop();
  const event = new EventFd();
  const never = () => assert.unreachable();
  const watch = loop.watch(event.fd.number, never);
  loop.after(0, never);
  loop.defer(never);
  event.signal();
  loop.close();
  loop.close();
  loop.turn(0);
  loop.turn(10);
  watch.close();
  event.close();
});

suiteOf.run();
