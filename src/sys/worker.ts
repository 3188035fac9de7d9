/**
 * Worker threads that run from the built .js and from the .ts sources alike, so that a debugger steps the lines people wrote.
 *
 * Node 20 cannot start a worker from a .ts file, even when tsx runs the main thread. There a line of JavaScript registers tsx in the worker and
 * imports the file; tsx is a development dependency and is looked for in this case only.
 */
import { Worker, type WorkerOptions } from 'node:worker_threads';

/** process.execArgv without `--import tsx`, whose hooks fail in a worker on Node 20. */
function withoutTsx(args: readonly string[]): string[] {
  const kept: string[] = [];
  for (let i = 0; i < args.length; i++) {
    if ((args[i] === '--import' || args[i] === '--require' || args[i] === '-r') && isTsx(args[i + 1])) i++;
    else if (!/^--(import|require)=/.test(args[i]) || !isTsx(args[i].slice(args[i].indexOf('=') + 1)))
      kept.push(args[i]);
  }
  return kept;
}

function isTsx(name: string | undefined): boolean {
  return name !== undefined && /(^|[\\/])tsx([\\/]|$)/.test(name);
}

/**
 * Start `url` (a file beside the caller: `new URL('./reactor-thread.ts', import.meta.url)`; the build rewrites no strings, so `.ts` becomes
 * `.js` here when the caller itself runs from the build) in a thread.
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
  return new Worker(code, { ...options, workerData, eval: true, execArgv: withoutTsx(process.execArgv) });
}
