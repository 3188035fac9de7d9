import { basename } from 'node:path';

/** The QEMU command line that attaches a controller: what people otherwise look for the longest. */

/** A value within a QEMU option: its commas are doubled. */
function option(value: string): string {
  return value.replaceAll(',', ',,');
}

function word(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** @param socket absolute path of the controller's socket */
export function qemuCommand(socket: string): string {
  const id = `chr-${basename(socket).replaceAll(/[^\w.-]/g, '_')}`;
  const words = [
    ['qemu-system-x86_64', '-machine', 'q35,accel=kvm:tcg,memory-backend=mem', '-m', '1G', '-smp', '2'],
    ['-object', 'memory-backend-memfd,id=mem,size=1G,share=on'],
    ['-chardev', `socket,id=${id},path=${option(socket)}`],
    ['-device', `vhost-user-scsi-pci,chardev=${id},num_queues=2`],
  ];
  return words.map((line) => line.map(word).join(' ')).join(' \\\n    ');
}

/** What to know beside it. */
export const QEMU_NOTES = `share=on lets the target see the guest's memory; id=mem must be the machine's memory.
To boot from target 0 add ",bootindex=0" to -device.
QEMU 8.2 and newer: add ",reconnect=1" to -chardev (9.2 and newer: ",reconnect-ms=1000"), and the guest lives through
a restart of the target. Older ones do not start with it.`;
