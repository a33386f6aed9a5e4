import js from "@eslint/js";
import globals from "globals";
import { flatConfigs } from "eslint-plugin-import-x";

export default [
  {
    files: ["**/*.js"],
    ...js.configs.recommended,
  },
  {
    files: ["**/*.js"],
    plugins: flatConfigs.recommended.plugins,
    languageOptions: { ecmaVersion: 2023, sourceType: "module", globals: globals.browser },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "max-len": ["error", { code: 120 }],
      "import-x/no-cycle": "error",
      "import-x/no-unresolved": "error",
      "no-var": "error",
      "prefer-const": "error",
      "eqeqeq": "error",
      "no-restricted-properties": ["error", { property: "innerHTML", message: "Text only: use h()." }],
    },
  },
];
