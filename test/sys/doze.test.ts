/** Pollers without work are left alone while others keep the loop awake, and come back when they are roused. */
import { EventLoop } from '../../src/sys/event-loop.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('dozing pollers');

class Idle {
  polls = 0;
  disarms = 0;
  asked = 0;
  readonly allows: boolean;
  constructor(allows: boolean) {
    this.allows = allows;
  }
  poll(): number {
    this.polls++;
    return 0;
  }
  arm(): boolean {
    return false;
  }
  disarm(): void {
    this.disarms++;
  }
  doze(): boolean {
    this.asked++;
    return this.allows;
  }
}

const busy = { poll: () => 1, arm: () => true, disarm: () => {} };

/** Turns until `done`, for at most some seconds. */
function turn(loop: EventLoop, done: () => boolean): void {
  const until = performance.now() + 10_000;
  while (!done()) {
    loop.turn(1);
    if (performance.now() > until) throw new Error('it did not happen');
  }
}

function stillPolled(loop: EventLoop, idle: Idle): boolean {
  const before = idle.polls;
  loop.turn(1);
  loop.turn(1);
  return idle.polls > before;
}

test('one that allows it is not polled any more, until it is roused', () => {
  const loop = new EventLoop();
  const idle = new Idle(true);
  loop.addPoller(busy);
  loop.addPoller(idle);
  turn(loop, () => idle.asked > 0);
  assert.not(stillPolled(loop, idle));
  assert.throws(() => loop.addPoller(idle), 'there already');
  loop.rouse(idle);
  assert.is(idle.disarms, 1);
  assert.ok(stillPolled(loop, idle));
  loop.rouse(idle);
  assert.is(idle.disarms, 1, 'rousing one that is awake does nothing');
  turn(loop, () => idle.asked > 1);
  assert.not(stillPolled(loop, idle));
  loop.removePoller(idle);
  loop.rouse(idle);
  assert.not(stillPolled(loop, idle));
  loop.addPoller(idle);
  assert.ok(stillPolled(loop, idle));
  loop.close();
});

test('one that refuses is polled on, and so are those without the method and those with work', () => {
  const loop = new EventLoop();
  const refuses = new Idle(false);
  const works = new Idle(true);
  works.poll = () => ++works.polls;
  const plain = { polls: 0, poll: () => 0 * ++plain.polls, arm: () => false, disarm: () => {} };
  for (const poller of [busy, refuses, works, plain]) loop.addPoller(poller);
  turn(loop, () => refuses.asked > 2);
  assert.is(works.asked, 0);
  const before = plain.polls;
  assert.ok(stillPolled(loop, refuses) && stillPolled(loop, works));
  assert.ok(plain.polls > before);
  loop.close();
});

test('nobody dozes in a loop that always polls', () => {
  const loop = new EventLoop({ alwaysPoll: true });
  const idle = new Idle(true);
  loop.addPoller(busy);
  loop.addPoller(idle);
  const until = performance.now() + 50;
  while (performance.now() < until) loop.turn(1);
  assert.is(idle.asked, 0);
  loop.close();
});

test.run();
