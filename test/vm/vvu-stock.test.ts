/** The appliance's devices through VFIO with a vIOMMU; compute VMs of the machine's own QEMU and of a newer one. */
import { vvuStock } from './vvu-stock.ts';

vvuStock({ access: 'vfio', kinds: ['system', '11'] });
