import { applianceDevices } from './appliance-devices.ts';

applianceDevices('vfio');
