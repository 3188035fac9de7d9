import { readFileSync, writeFileSync } from 'node:fs';
import { Access } from '../../src/scsi/opcode-row.ts';
import { OPCODES } from '../../src/scsi/opcodes.ts';

/**
 * Writes the table of commands in docs/scsi.md from the opcode table: `node --import tsx test/scsi/print-opcodes.ts`.
 * docs.test.ts sees to it that it is done.
 */

export const DOCUMENT = new URL('../../docs/scsi.md', import.meta.url);

const BEGIN = '<!-- commands: made by test/scsi/print-opcodes.ts -->\n';
const END = '<!-- end of commands -->\n';

const OTHERS: Record<Access, string> = {
  [Access.ALWAYS]: 'always',
  [Access.READ]: 'not under Exclusive Access',
  [Access.WRITE]: 'no',
  [Access.ALWAYS_BUT_RESERVED]: 'always, but not under RESERVE',
  [Access.OWN]: 'by its own rules',
};

function hexByte(value: number): string {
  return value.toString(16).padStart(2, '0');
}

export function opcodeTable(): string {
  const lines = [
    '| opcode | command | CDB usage map | data | others may, under a reservation | |',
    '|---|---|---|---|---|---|',
  ];
  for (const row of OPCODES) {
    const opcode = hexByte(row.opcode) + (row.serviceAction >= 0 ? `/${hexByte(row.serviceAction)}` : '');
    const access = row.accessOf === undefined ? OTHERS[row.access] : 'depends on the CDB';
    const remarks = [
      row.exclusive ? 'exclusive' : '',
      row.needs !== undefined ? 'where the disk can' : '',
      row.attention ? '' : 'before unit attentions',
    ].filter((r) => r !== '');
    const usage = Array.from(row.usage, hexByte).join(' ');
    lines.push(`| ${opcode} | ${row.name} | \`${usage}\` | ${row.data} | ${access} | ${remarks.join(', ')} |`);
  }
  return `${lines.join('\n')}\n`;
}

/** The document with the table of today in it. */
export function withTable(document: string): string {
  const begin = document.indexOf(BEGIN) + BEGIN.length;
  const end = document.indexOf(END);
  if (begin < BEGIN.length || end < begin) throw new Error('docs/scsi.md has lost the marks around its table');
  return `${document.slice(0, begin)}\n${opcodeTable()}\n${document.slice(end)}`;
}

if (process.argv[1] !== undefined && import.meta.url.endsWith(process.argv[1].replace(/^.*\//, '/'))) {
  writeFileSync(DOCUMENT, withTable(readFileSync(DOCUMENT, 'utf8')));
}
