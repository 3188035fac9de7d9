import { readFileSync } from 'node:fs';
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { RpcClient } from '../../rpc/client.ts';
import { describeParams } from '../../rpc/describe.ts';
import type { Method } from '../../rpc/method.ts';
import { methodTable } from '../../rpc/methods/table.ts';
import { nearest } from '../../rpc/suggest.ts';
import { OperatorError } from '../operator-error.ts';
import { type Argument, type Form, formOf } from '../rpc-forms.ts';
import { type RpcLine, rpcLines } from '../rpc-lines.ts';

/** What `vvu-target rpc` does: words to parameters, the call, its result printed. */

export interface RpcOptions {
  sock: string;
  rpcSocket?: string;
  timeout: number;
}

/** @param name a method; undefined: those that stand on standard input */
export async function call(name: string | undefined, words: readonly string[], options: RpcOptions): Promise<void> {
  if (name !== undefined) await callOne(name, words, options);
  else await callLines(options);
}

async function callOne(name: string, words: readonly string[], options: RpcOptions): Promise<void> {
  const call = parseCall(name, words);
  if (call === undefined) return;
  print(await send(options, name, call.params), call.form);
}

/** Calls from standard input, in order, up to the first that fails. */
async function callLines(options: RpcOptions): Promise<void> {
  if (process.stdin.isTTY) throw new OperatorError('rpc: which method? See `vvu-target rpc --help`');
  let lines: RpcLine[];
  try {
    lines = rpcLines(readFileSync(0, 'utf8'));
  } catch (error) {
    throw new OperatorError(`rpc: standard input, ${(error as Error).message}`);
  }
  for (const { number, words } of lines) {
    try {
      await callOne(words[0], words.slice(1), options);
    } catch (error) {
      if (error instanceof OperatorError) error.message = `line ${number}: ${error.message}`;
      throw error;
    }
  }
}

interface Call {
  readonly params: Record<string, unknown> | undefined;
  readonly form: Form | undefined;
}

/** From the words after METHOD to its parameters; undefined when it was a request for help. */
export function parseCall(name: string, words: readonly string[]): Call | undefined {
  const row = methodTable.get(name);
  if (words[0] === '--json' && words.length === 2) {
    return { params: parseJson(words[1], '--json'), form: row && formFor(row) };
  }
  if (row === undefined) {
    if (words.length === 0) return { params: undefined, form: undefined }; // another target may know it
    const near = nearest(name, methodTable.names);
    throw new OperatorError(
      `rpc: no method is called ${name}; ${near === undefined ? '`vvu-target rpc rpc_get_methods` lists them' : `did you mean ${near}?`}`,
    );
  }
  const form = formFor(row);
  const command = methodCommand(row, name, form);
  try {
    command.parse(words.map(dashed), { from: 'user' });
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return undefined;
    if (error instanceof CommanderError) {
      throw new OperatorError(
        `rpc ${name}: ${error.message.replace(/^error: /, '')}; see \`vvu-target rpc ${name} --help\``,
      );
    }
    throw error;
  }
  if (row.names[0] === 'load_config') return { params: readConfig(command.opts()), form };
  const typed: Record<string, unknown> = {};
  form.arguments.forEach((argument, i) => {
    if (command.processedArgs[i] !== undefined) typed[argument.name] = command.processedArgs[i];
  });
  for (const option of form.options) {
    const value = command.getOptionValue(option.name);
    if (value !== undefined) typed[option.name] = value;
  }
  return { params: form.convert(typed), form };
}

/** Older rpc.py versions write some options with underscores. */
function dashed(word: string): string {
  const [, name, rest] = /^--([\w-]+)(.*)$/s.exec(word) ?? [];
  return name === undefined ? word : `--${name.replaceAll('_', '-')}${rest}`;
}

function formFor(row: Method): Form {
  return formOf(row.names[0], describeParams(row));
}

function methodCommand(row: Method, name: string, form: Form): Command {
  const command = new Command(name)
    .description(row.summary)
    .exitOverride()
    .configureOutput({ writeErr: () => {} });
  if (row.names[0] === 'load_config') {
    return command.option('-j, --json-conf <file>', 'configuration file; without it, standard input');
  }
  for (const argument of form.arguments) {
    command.argument(argument.required ? `<${argument.name}>` : `[${argument.name}]`, argument.description, (text) =>
      parseValue(text, argument),
    );
  }
  for (const option of form.options) {
    const letter = form.short[option.name];
    // rpc.py writes dashes; the parameters' own names work too.
    const long = `--${option.name.replaceAll('_', '-')}`;
    const flags = `${letter === undefined ? '' : `-${letter}, `}${long}`;
    const added =
      option.type === 'boolean'
        ? command.createOption(flags, option.description)
        : command.createOption(`${flags} <value>`, option.description).argParser((text) => parseValue(text, option));
    added.attributeName = () => option.name;
    if (option.required) added.makeOptionMandatory();
    command.addOption(added);
    if (option.type === 'boolean') {
      const negative = command.createOption(`--no-${long.slice(2)}`).hideHelp();
      negative.attributeName = () => option.name;
      command.addOption(negative);
    }
  }
  return command;
}

function parseValue(text: string, { type }: Argument): unknown {
  const types = type.split(' or ');
  if (types.includes('integer') || types.includes('number')) {
    const number = text.trim() === '' ? Number.NaN : Number(text);
    if (!Number.isNaN(number)) return number;
    if (!types.includes('string')) throw new InvalidArgumentError('a number is expected.');
  }
  if (types.includes('boolean')) {
    if (text === 'true') return true;
    if (text === 'false') return false;
  }
  if (types.includes('array') || types.includes('object')) {
    if (/^\s*[[{]/.test(text)) {
      try {
        return JSON.parse(text);
      } catch {
        throw new InvalidArgumentError('this is no JSON.');
      }
    }
    if (types.includes('array')) return text.split(/[\s,]+/).filter((word) => word !== '');
  }
  return text;
}

function parseJson(text: string, where: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new OperatorError(`rpc: ${where} is no JSON: ${(error as Error).message}`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new OperatorError(`rpc: ${where} must hold an object of parameters: {"name": "value"}`);
  }
  return value as Record<string, unknown>;
}

function readConfig({ jsonConf: file }: { jsonConf?: string }): Record<string, unknown> {
  try {
    return parseJson(readFileSync(file ?? 0, 'utf8'), file ?? 'standard input');
  } catch (error) {
    if (error instanceof OperatorError) throw error;
    throw new OperatorError(`rpc load_config: ${(error as Error).message}; name a file that can be read (-j)`);
  }
}

async function send(options: RpcOptions, name: string, params: Record<string, unknown> | undefined): Promise<unknown> {
  const socket = options.rpcSocket ?? options.sock;
  let client: RpcClient;
  try {
    client = await RpcClient.connect(socket);
  } catch (error) {
    const code = (error as { code?: string }).code;
    const why =
      code === 'ENOENT' || code === 'ECONNREFUSED'
        ? 'no target listens there; start one (`vvu-target`) or name its socket with -s'
        : code === 'EACCES'
          ? 'permission denied: the socket belongs to the user who runs the target'
          : (error as Error).message;
    throw new OperatorError(`rpc: ${socket}: ${why}`);
  }
  try {
    return await client.call(name, params, options.timeout * 1000);
  } catch (error) {
    throw new OperatorError(`rpc ${name}: ${(error as Error).message}`);
  } finally {
    client.close();
  }
}

/** As rpc.py prints: names bare, objects as JSON, nothing for a bare success. */
function print(result: unknown, form: Form | undefined): void {
  if (result === true || result === undefined) return;
  if (typeof result === 'string') console.log(result);
  else if (form?.words && Array.isArray(result)) console.log(result.join(' '));
  else console.log(JSON.stringify(result, null, 2));
}
