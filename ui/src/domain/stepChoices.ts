/** What steps can run: known definitions, names that are offered, other workflows. */
export interface StepChoices {
  readonly defs: readonly { readonly id: string; readonly name: string; readonly executor: string }[];
  readonly tasks: readonly string[];
  readonly workflows: readonly { readonly id: string; readonly name: string }[];
}
