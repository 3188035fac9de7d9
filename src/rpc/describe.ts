import { z } from 'zod';
import type { Method, MethodTable } from './method.ts';

/** What a method's schema says, in plain data: for the command line's help and for docs/rpc.md. */

export interface ParamDescription {
  readonly name: string;
  readonly required: boolean;
  /** "integer", "number", "string", "boolean", "array", "object", or several with " or ". */
  readonly type: string;
  readonly description: string;
}

interface JsonSchema {
  type?: string;
  anyOf?: JsonSchema[];
  enum?: unknown[];
  const?: unknown;
  description?: string;
  properties?: Record<string, JsonSchema>;
  required?: string[];
}

export function describeParams(method: Method): ParamDescription[] {
  const schema = z.toJSONSchema(method.params, { io: 'input' }) as JsonSchema;
  return Object.entries(schema.properties ?? {}).map(([name, property]) => ({
    name,
    required: schema.required?.includes(name) ?? false,
    type: typeOf(property),
    description: property.description ?? '',
  }));
}

function typeOf(schema: JsonSchema): string {
  if (schema.anyOf !== undefined) return [...new Set(schema.anyOf.map(typeOf))].join(' or ');
  return schema.type ?? typeof schema.const;
}

/** The reference of all methods as Markdown tables (docs/rpc.md holds exactly this between its two marks). */
export function methodReference(table: MethodTable): string {
  return table.rows.map(methodSection).join('\n');
}

function methodSection(method: Method): string {
  const [name, ...aliases] = method.names;
  const lines = [`### ${name}`, '', method.summary];
  if (aliases.length > 0) lines.push('', `Older names: ${aliases.map((alias) => `\`${alias}\``).join(', ')}.`);
  if (method.states === 'startup') lines.push('', 'Only before the framework is initialized (`--wait-for-rpc`).');
  const params = describeParams(method);
  if (params.length > 0) {
    lines.push('', '| parameter | type | | meaning |', '|---|---|---|---|');
    for (const p of params) {
      lines.push(
        `| \`${p.name}\` | ${p.type} | ${p.required ? 'required' : ''} | ${p.description.replaceAll('|', '\\|')} |`,
      );
    }
  }
  lines.push('', `Result: ${method.result}`, '');
  return lines.join('\n');
}
