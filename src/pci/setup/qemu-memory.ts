import type { Finding } from './doctor.ts';
import type { Machine } from './machine.ts';

/** VMs on this host that have vhost-user devices: whether they share their memory, without which no target can serve them. */

/** Words of a process's command line, or [] for processes that are no QEMU. */
function qemuArguments(machine: Machine, pid: string): string[] {
  const text = machine.text(machine.proc(pid, 'cmdline'));
  const words = text?.split('\0') ?? [];
  return /(^|\/)(qemu-system-|qemu-kvm|kvm$)/.test(words[0] ?? '') ? words : [];
}

export function qemuFindings(machine: Machine): Finding[] {
  const findings: Finding[] = [];
  for (const pid of machine.list(machine.procRoot).filter((name) => /^\d+$/.test(name))) {
    const words = qemuArguments(machine, pid);
    if (!words.some((w) => /vhost-user-(scsi|blk)/.test(w))) continue;
    const backends = words.filter((w) => /^memory-backend-(memfd|file|ram|epc)|qom-type=memory-backend/.test(w));
    const shared = backends.length > 0 && backends.every((w) => /share=(on|true|yes)/.test(w));
    if (shared) findings.push({ level: 'ok', what: `QEMU process ${pid} shares its memory` });
    else {
      const why = backends.length === 0 ? 'has no memory backend' : 'has a memory backend without share=on';
      findings.push({
        level: 'missing',
        what: `QEMU process ${pid} ${why}: the target can't reach the VM's memory`,
        fix: 'start it with -object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem',
      });
    }
  }
  return findings;
}
