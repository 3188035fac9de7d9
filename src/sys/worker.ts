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
 * Start a thread. Node's options (--cpu-prof, --enable-source-maps ...) hold in it as they do here.
 * @param url of a source beside the caller: `new URL('./reactor-thread.ts', import.meta.url)`. The build rewrites
 * imports but no URLs, so running from the build `.ts` becomes `.js` here
 * @param workerData what the thread finds as `workerData`; cloned
 */
export function startWorker(url: URL, workerData: unknown, options: Pick<WorkerOptions, 'name'> = {}): Worker {
  const built = import.meta.url.endsWith('.js');
  const file = built ? new URL(url.href.replace(/\.ts$/, '.js')) : url;
  if (built || 'typescript' in process.features) return new Worker(file, { ...options, workerData });
  const code = `
    import(${JSON.stringify(import.meta.resolve('tsx/esm/api'))})
      .then(({ register }) => { register(); return import(${JSON.stringify(file.href)}); })
      .catch((error) => { process.nextTick(() => { throw error; }); });`;
  return new Worker(code, { ...options, workerData, eval: true });
}
