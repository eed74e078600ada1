import vue from "eslint-plugin-vue";
import a11y from "eslint-plugin-vuejs-accessibility";
import ts from "typescript";
import tseslint from "typescript-eslint";

// ESLint parses the script of a .vue file as if it were the file. TypeScript must read the same from
// the disk: else each file looks changed when its turn comes, and all types are inferred anew.
const read = ts.sys.readFile;
const SCRIPT = /<script[^>]*>([^]*?)<\/script>/;
ts.sys.readFile = (path, encoding) => {
  const text = read(path, encoding);
  return path.endsWith(".vue") ? (SCRIPT.exec(text ?? "")?.[1] ?? "") : text;
};

export default tseslint.config(
  { ignores: ["src/api/schema.d.ts", "eslint.config.js"] },
  ...tseslint.configs.strictTypeChecked,
  ...vue.configs["flat/recommended"],
  ...a11y.configs["flat/recommended"],
  {
    languageOptions: {
      parserOptions: {
        parser: tseslint.parser,
        projectService: { allowDefaultProject: [] },
        tsconfigRootDir: import.meta.dirname,
        extraFileExtensions: [".vue"],
      },
    },
    rules: {
      "vue/component-api-style": ["error", ["script-setup"]],
      "vue/block-lang": ["error", { script: { lang: "ts" } }],
      "vue/no-bare-strings-in-template": "error", // what people read is in src/locales
      "vue/no-v-html": "error", // what comes from data is text
      "vue/multi-word-component-names": "off", // pages have one word; house rule B is kept by eye
      "vue/max-attributes-per-line": "off",
      "vue/singleline-html-element-content-newline": "off",
      "vue/html-self-closing": ["error", { html: { normal: "any", void: "always" } }],
      "vue/html-indent": "off",
      "vue/multiline-html-element-content-newline": "off",
      "vue/html-closing-bracket-newline": "off",
      "vue/first-attribute-linebreak": "off",
      "vue/attributes-order": "off",
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      "@typescript-eslint/unbound-method": "off", // vue-i18n gives its functions in an object
      "@typescript-eslint/no-confusing-void-expression": "off", // one-line handlers
      "@typescript-eslint/no-unnecessary-condition": ["error", { allowConstantLoopConditions: true }],
      "vuejs-accessibility/label-has-for": "off", // Element Plus ties them by id; axe looks at the page
      "vuejs-accessibility/form-control-has-label": "off",
      "vuejs-accessibility/no-static-element-interactions": "off",
      "vuejs-accessibility/interactive-supports-focus": "off", // of a listbox the combobox has the focus
      "vuejs-accessibility/click-events-have-key-events": "error",
    },
  },
  {
    // ESLint does not see through imports of .vue files; vue-tsc does, and checks all of this.
    files: ["**/*.vue"],
    rules: {
      "@typescript-eslint/no-unsafe-assignment": "off",
      "@typescript-eslint/no-unsafe-member-access": "off",
      "@typescript-eslint/no-unsafe-argument": "off",
      "@typescript-eslint/no-unsafe-call": "off",
      "@typescript-eslint/no-unsafe-return": "off",
      "@typescript-eslint/no-redundant-type-constituents": "off",
      "@typescript-eslint/restrict-plus-operands": "off",
    },
  },
);
