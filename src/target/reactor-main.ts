import { parentPort, workerData } from 'node:worker_threads';
import { pinThread } from '../sys/affinity.ts';
import { EventLoop } from '../sys/event-loop.ts';
import { EventFd } from '../sys/eventfd.ts';
import { Fd } from '../sys/fd.ts';
import { guarded } from '../sys/stall-guard.ts';
import { Mailbox } from './mailbox.ts';
import { loopOptions, type ReactorData, type ReadyMessage } from './reactor.ts';
import { ReactorCore } from './reactor-core.ts';

/** Entry of a reactor's worker thread: pin, loop, commands. What throws out of here ends the target. */

if (parentPort === null) throw new Error('reactor-main runs as a worker thread only');
const port = parentPort;
const { cpu, bell, options } = workerData as ReactorData;

pinThread(cpu);
const loop = new EventLoop(loopOptions(options));
const core = new ReactorCore(loop, (request) => port.postMessage(request));
new Mailbox(port, EventFd.adopt(Fd.take(bell)), loop, (name, params, done) => {
  core.execute(name, params, (error, result) => {
    done(error, result);
    if (name === 'shutdown' && !error) loop.stop();
  });
});
port.postMessage({ ready: guarded() } satisfies ReadyMessage);
await loop.run();
loop.close();
