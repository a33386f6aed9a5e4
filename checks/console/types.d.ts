// Types of the console. Those of the service are generated from its OpenAPI document (build/openapi.d.ts).

import type { components } from "./build/openapi";
import type { Api } from "../../api/static/api.js";

type Schemas = components["schemas"];
export type Job = Schemas["JobView"];
export type Batch = Schemas["BatchView"];
export type BatchList = Schemas["BatchList"];
export type BatchSummary = Schemas["BatchSummary"];
export type JobError = Schemas["ErrorInfo"];
export type JobEvent = Schemas["JobEvent"];
export type JobList = Schemas["JobList"];
export type JobStatus = Schemas["JobStatus"];
export type Note = Schemas["RenderNote"];
export type AudioTrack = NonNullable<Schemas["RenderInfo"]["audio_track"]>;
export type Offer = Schemas["Offer"];
export type MetricInfo = Schemas["MetricInfo"];
export type Metric = Schemas["MetricResult"];
export type Evaluation = Schemas["Evaluation"];
export type Curves = Schemas["EvaluationCurves"];
export type MediaLink = Schemas["MediaLink"];
export type MediaLinks = Schemas["MediaLinks"];
export type Delivery = Schemas["DeliveryView"];
export type AccountUsage = Schemas["AccountUsage"];
export type UsageReport = Schemas["UsageReport"];
export type ApiKey = Schemas["KeyView"];
export type IssuedKey = Schemas["IssuedKey"];
export type KeyList = Schemas["KeyList"];
export type ErrorRow = Schemas["ErrorRow"];
export type FieldError = Schemas["FieldError"];
export type ProblemDocument = Partial<Schemas["Problem"]>;
export type Analysis = Schemas["VideoAnalysis"];
export type Person = Schemas["AnalyzedPerson"];
export type FinishedJob = Job & { result: NonNullable<Job["result"]> };

// elements.js
export type Child = Node | string | number | false | null | undefined | readonly Child[];
export interface Properties {
  [listener: `on${string}`]: ((event: any) => unknown) | undefined;
  [attribute: string]: unknown;
}

// What main.js hands to a page.
export interface PageContext {
  api: Api;
  signal: AbortSignal;
  go: (hash: string) => void;
}

// JSON Schema, as far as the console reads it.
export interface Schema {
  type?: string;
  title?: string;
  description?: string;
  default?: unknown;
  enum?: string[];
  "x-enumDescriptions"?: Record<string, string>;
  examples?: string[];
  anyOf?: Schema[];
  items?: Schema;
  properties?: Record<string, Schema>;
  required?: string[];
  format?: string;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
}
export interface OpenApi {
  components: { schemas: Record<string, Schema & { properties: Record<string, Schema> }> };
}

// option_shapes.js: what a form needs to know about an option. path: its name, dotted for members of objects.
interface ShapeBase {
  name: string;
  path: string;
  label: string;
  help: string;
  default?: any;
  nullable?: boolean;
  required?: boolean;
}
export interface Choice {
  value: string;
  meaning: string;
}
// variants: objects that may replace the words
export type ChoiceShape = ShapeBase & { kind: "choice"; choices: Choice[]; variants: GroupShape[]; isMetrics?: boolean };
export type NumberShape = ShapeBase & { kind: "number"; min?: number; max?: number; integer: boolean };
export type ListShape = ShapeBase & { kind: "list"; choices: Choice[] };
export type GroupShape = ShapeBase & { kind: "group"; members: Shape[] };
export type PlainShape = ShapeBase & { kind: "switch" | "text" | "json" };
export type Shape = ChoiceShape | NumberShape | ListShape | GroupShape | PlainShape;

// fields.js: the control of an option.
export interface Field {
  element: HTMLElement;
  shape: Shape;
  control: HTMLElement & { value?: any };
  // The typed value; undefined for the default, which need not be sent. Throws InvalidField.
  read: () => any;
  // Marks values that an engine does not support; [] for every value but the default.
  refuse: (values: string[] | undefined, engine: string, reasons?: Record<string, string>) => void;
  showError: (text: string) => void;
  fields?: Field[];
  variants?: Variant[];
}
export type Variant = GroupShape & { field: Field };

// source_input.js
export type Source = { file: File; url?: undefined } | { url: string; file?: undefined };
export type Player = HTMLVideoElement | HTMLImageElement;

// plots.js: values per frame (null: unknown)
export type Values = readonly (number | null)[];
export interface Series {
  name: string;
  values: Values;
  tone: number;
  isArea?: boolean;
}
export type Scale = (value: number) => number;
export interface Axes {
  domain: [number, number];
  range: [number, number];
  xText: (value: number) => string;
  xSteps: number[];
}
export interface PlotText {
  heading: string;
  help: string;
  summary: string;
}
