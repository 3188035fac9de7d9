import type { Machine } from './machine.ts';

const CONTROL_BRACKET = 0x1d;

/** Lends the console to the person at the terminal until the shell in the guest ends. */
export async function lendConsole(vm: Machine): Promise<void> {
  const { stdin, stdout } = process;
  console.log('\nThis is the shell of the compute VM. `exit` (or Ctrl-]) ends it and takes everything down.\n');
  const size = `rows ${stdout.rows || 24} cols ${stdout.columns || 80}`;
  await vm.run(`stty -F /dev/ttyS0 ${size}`);
  vm.onConsole = (chunk) => stdout.write(chunk);
  stdin.setRawMode(true);
  stdin.resume();
  const left = new Promise<void>((resolve) => {
    stdin.on('data', (chunk: Buffer) => {
      if (chunk.includes(CONTROL_BRACKET)) resolve();
      else vm.process.stdin!.write(chunk);
    });
    stdin.once('end', resolve);
  });
  try {
    const shell = vm.try('console-shell', 14 * 24 * 3600);
    await Promise.race([left, shell, vm.exited]);
    shell.catch(() => {});
  } finally {
    stdin.setRawMode(false);
    stdin.pause();
    vm.onConsole = undefined;
  }
}
