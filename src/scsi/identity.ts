/** INQUIRY's names. The product comes from the disk's kind (BdevInfo.product). */
export const VENDOR = 'INTEL';
export const REVISION = '0001';
