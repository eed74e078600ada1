/** A workflow's parameters, a JSON Schema, as fields of a form. */

export type FieldKind = "text" | "number" | "whole" | "choice" | "json";

export interface ParamField {
  readonly name: string;
  readonly label: string;
  readonly kind: FieldKind;
  /** Whether a run cannot begin without it. */
  readonly required: boolean;
  readonly hint: string;
  /** What is taken when nothing is said, "" = nothing. */
  readonly fallback: string;
  /** Of a choice: each value as JSON, which tells 1 from "1". */
  readonly choices: readonly { readonly json: string; readonly text: string }[];
  readonly min?: number;
  readonly max?: number;
  readonly long?: number;
}

type Schema = Readonly<Record<string, unknown>>;

function isSchema(value: unknown): value is Schema {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function numberAt(schema: Schema, key: string): number | undefined {
  const found = schema[key];
  return typeof found === "number" ? found : undefined;
}

function kindOf(schema: Schema, choices: number): FieldKind {
  if (choices > 0) return "choice";
  if (schema["type"] === "string") return "text";
  if (schema["type"] === "number") return "number";
  return schema["type"] === "integer" ? "whole" : "json";
}

function choicesOf(schema: Schema): readonly unknown[] {
  if (Array.isArray(schema["enum"])) return schema["enum"];
  return schema["type"] === "boolean" ? [true, false] : [];
}

/** The fields, as the schema lists them; empty when it names no parameters. */
export function fieldsOf(schema: unknown): ParamField[] {
  if (!isSchema(schema) || !isSchema(schema["properties"])) return [];
  const required = new Set(Array.isArray(schema["required"]) ? schema["required"] : []);
  return Object.entries(schema["properties"]).map(([name, said]) => {
    const one = isSchema(said) ? said : {};
    const choices = choicesOf(one).map((value) => ({ json: JSON.stringify(value), text: textOf(value) }));
    const [min, max, long] = [numberAt(one, "minimum"), numberAt(one, "maximum"), numberAt(one, "maxLength")];
    return {
      name,
      label: typeof one["title"] === "string" && one["title"] !== "" ? one["title"] : name,
      kind: kindOf(one, choices.length),
      required: required.has(name) && one["default"] === undefined,
      hint: typeof one["description"] === "string" ? one["description"] : "",
      fallback: one["default"] === undefined ? "" : textOf(one["default"]),
      choices,
      ...(min === undefined ? {} : { min }),
      ...(max === undefined ? {} : { max }),
      ...(long === undefined ? {} : { long }),
    };
  });
}

/** The parameters with one of them changed; undefined takes it away. */
export function withParam(values: Schema, name: string, value: unknown): Record<string, unknown> {
  const changed = { ...values, [name]: value };
  return Object.fromEntries(Object.entries(changed).filter(([, one]) => one !== undefined));
}

/** Where plumd says that a parameter is. */
export function placeOf(name: string): string {
  return ["payload", name].join(".");
}

/** The text at the place of each parameter that a run cannot begin without and that nothing is said for. */
export function missingParams(schema: unknown, payload: unknown, text: string): Record<string, string> {
  const values = isSchema(payload) ? payload : {};
  return Object.fromEntries(
    fieldsOf(schema)
      .filter((one) => one.required && values[one.name] === undefined)
      .map((one) => [placeOf(one.name), text]),
  );
}
