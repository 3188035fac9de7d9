/**
 * Worker threads that run from the built .js and from the .ts sources alike, so that a debugger steps the lines
 * people wrote.
 *
 * Node 20 cannot start a worker from a .ts file, not even when tsx runs the main thread. There a line of JavaScript
 * registers tsx in the worker and imports the file; tsx is a development dependency and is looked for in this case
 * only.
 */
import { Worker, type WorkerOptions } from 'node:worker_threads';

/**
 * V8 takes views of mapped memory for memory that it could free: when half of the heap's limit of them has come since the last
 * collection, it collects everything, at once. With the usual limit that is once for each 4 GiB that a guest begins to use,
 * and a pause for all guests of the thread. So the limit lies far above all memory that can be announced. Mebibytes.
 */
const HEAP_LIMIT_MB = 2 ** 23;

/**
 * Start a thread. Node's options (--cpu-prof, --enable-source-maps ...) hold in it as they do here.
 * @param url of a source beside the caller: `new URL('./reactor-thread.ts', import.meta.url)`. The build rewrites
 * imports but no URLs, so running from the build `.ts` becomes `.js` here
 * @param workerData what the thread finds as `workerData`; cloned
 */
export function startWorker(url: URL, workerData: unknown, options: Pick<WorkerOptions, 'name'> = {}): Worker {
  const all = { ...options, workerData, resourceLimits: { maxOldGenerationSizeMb: HEAP_LIMIT_MB } };
  const built = import.meta.url.endsWith('.js');
  const file = built ? new URL(url.href.replace(/\.ts$/, '.js')) : url;
  if (built || 'typescript' in process.features) return new Worker(file, all);
  const code = `
    import(${JSON.stringify(import.meta.resolve('tsx/esm/api'))})
      .then(({ register }) => { register(); return import(${JSON.stringify(file.href)}); })
      .catch((error) => { process.nextTick(() => { throw error; }); });`;
  return new Worker(code, { ...all, eval: true });
}
